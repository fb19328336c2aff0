#!/usr/bin/python3
"""What a request costs with few volumes and with many, drawn from what `deploy/bench native` found:

    tests/bench/plot.py FIGURES SVG

FIGURES is its JSON file. Needs gnuplot (Debian: gnuplot-nox).
"""
import json
import subprocess
import sys

LINES = {"create_p50_ms": "create", "get_p50_ms": "get", "put_p50_ms": "put", "rm_p50_ms": "rm",
         "list_ms_per_1000": "ls, 1,000 volumes of it"}


def main():
    with open(sys.argv[1]) as file:
        figures = json.load(file)
    counts = sorted({int(key.split(".")[1]) for key in figures if key.startswith("scale.") and key.split(".")[1].isdigit()})
    columns = [*LINES, "memory_mib"]
    data = "\n".join(" ".join(str(value) for value in [count, *(figures[f"scale.{count}.{column}"] for column in columns)])
                     for count in counts)
    lines = [f"$data using 1:{2 + at} with linespoints title '{title}'" for at, title in enumerate(LINES.values())]
    lines.append(f"$data using 1:{1 + len(columns)} axes x1y2 with lines dashtype 2 title 'memory of the manager'")
    script = f"""set terminal svg size 800,480 font 'sans,12'
set output '{sys.argv[2]}'
set logscale x
set xlabel 'volumes'
set ylabel 'milliseconds'
set yrange [0:*]
set ytics nomirror
set y2label 'MiB'
set y2tics
set y2range [0:*]
set key outside below
set grid
$data << EOD
{data}
EOD
plot {", ".join(lines)}
"""
    try:
        subprocess.run(["gnuplot"], input=script, text=True, check=True)
    except FileNotFoundError:
        sys.exit("plot: there is no gnuplot: apt-get install gnuplot-nox")


main()
