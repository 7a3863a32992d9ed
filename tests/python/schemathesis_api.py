"""Runs schemathesis against a daemon and prints one JSON object of what it did. Argument: a JSON file
{base, token, run, other, attempt, delivery, examples}."""

import json
import pathlib
import subprocess
import sys

given = json.loads(pathlib.Path(sys.argv[1]).read_text())
quoted = json.dumps
operations = {
    "/api/v1/trend": {"query.repo": "ada/churn"},
    "/api/v1/runs/{run}/diff": {"query.with": given["other"]},
    "/api/v1/attempts/{attempt}/artifact": {"query.path": "out/model.bin"},
}
lines = ["[parameters]"]
for name in ("run", "attempt", "delivery"):
    lines.append(f'"path.{name}" = {quoted(given[name])}')
for path, parameters in operations.items():
    lines += ["[[operations]]", f"include-path = {quoted(path)}", "[operations.parameters]"]
    lines += [f"{quoted(key)} = {quoted(value)}" for key, value in parameters.items()]
pathlib.Path("schemathesis.toml").write_text("\n".join(lines) + "\n")

tool = pathlib.Path(sys.executable).with_name("schemathesis")
command = [
    tool, "run", given["base"] + "/api/v1/openapi.json",
    "--header", "Authorization: Bearer " + given["token"],
    "--phases", "examples,coverage,fuzzing", "--checks", "all",
    "--max-examples", str(given["examples"]), "--seed", "20261125", "--no-shrink", "--continue-on-failure",
    "--suppress-health-check", "all", "--report", "ndjson", "--report-ndjson-path", "report.ndjson",
]
done = subprocess.run(command, capture_output=True, text=True)

tested, requests, checks, good, failures = set(), 0, 0, 0, []
for line in pathlib.Path("report.ndjson").read_text().splitlines():
    [(kind, event)] = json.loads(line).items()
    if kind != "ScenarioFinished":
        continue
    recorder = event["recorder"]
    for exchange in (recorder.get("interactions") or {}).values():
        requests += 1
        tested.add(recorder["label"])
        answer = exchange.get("response") or {}
        good += answer.get("status_code", 0) // 100 == 2
    for case, outcomes in (recorder.get("checks") or {}).items():
        for outcome in outcomes:
            checks += 1
            if outcome["status"] != "success":
                said = outcome.get("failure_info") or {}
                failures.append({"call": recorder["label"], "check": outcome["name"], "said": json.dumps(said)[:600]})
if done.returncode not in (0, 1) or (done.returncode == 1) != bool(failures):
    failures.append({"call": "schemathesis", "check": f"exit {done.returncode}", "said": (done.stdout + done.stderr)[-3000:]})
print(json.dumps({"tested": sorted(tested), "operations": len(tested), "requests": requests, "checks": checks, "good": good, "failures": failures[:40]}))
