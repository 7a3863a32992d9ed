"""Turns a customer into the numbers that the model sees. Each is roughly within -1..1."""


def encode(row):
    tenure, charge, calls, monthly, autopay, usage = row
    return (
        1.0,
        (tenure - 36) / 36,
        (charge - 60) / 45,
        (calls - 1) / 3,
        float(monthly),
        float(autopay),
        (usage - 40) / 30,
    )
