"""What a benchmark prints at its end, and how large a process is."""


def memory_mib(pid):
    """What is resident of it."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def print_figures(figures, goals):
    """`figures`: name -> number; `goals`: name -> (sign, number)."""
    print(f"\n{'figure':40} {'value':>10}  goal")
    for key, value in figures.items():
        word = ""
        if key in goals:
            sign, goal = goals[key]
            reached = value <= goal if sign == "<=" else value >= goal
            word = f"{sign} {goal}  {'reached' if reached else 'NOT reached'}"
        print(f"{key:40} {value:10.2f}  {word}")
