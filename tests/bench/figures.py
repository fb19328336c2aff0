"""What a benchmark prints at its end."""


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
