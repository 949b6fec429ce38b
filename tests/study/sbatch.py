"""Stands for sbatch: runs the tasks of a job array in processes, after the arrays that it depends on, and returns."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

home, script = Path(os.environ["JOBS"]), Path(sys.argv[-1])
options = {}
for line in re.findall(r"^#SBATCH (.*)", script.read_text(), re.MULTILINE):
    (word,) = shlex.split(line, comments=True)  # as SLURM reads it: an unquoted # ends it, quotes must be matched
    name, _, value = word.removeprefix("--").partition("=")
    options[name] = value
assert sys.argv[1:-1] == ["--parsable"]
if "refused" in options.get("partition", ""):
    sys.exit("sbatch: error: invalid partition specified: refused")
job = str(len(list(home.glob("*.sh"))) + 1)
(home / f"{job}.sh").write_text(script.read_text())
if os.fork():
    sys.stdout.write(f"{job}\n")
    sys.stdout.flush()
    sys.exit()
os.setsid()
for stream in (0, 1, 2):  # the submitting shell is gone
    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
before = options.get("dependency", "").removeprefix("afterok:")
while before and not (home / f"{before}.ended").exists():
    time.sleep(0.05)
codes = []
if not before or (home / f"{before}.ended").read_text() == "0":
    tasks = []
    for part in options["array"].partition("%")[0].split(","):
        first, _, last = part.partition("-")
        tasks += range(int(first), int(last or first) + 1)
    for task in tasks:  # one at a time
        log = options["output"].replace("%3a", f"{task:03d}")
        log = "%".join(part.replace("%a", str(task)) for part in log.split("%%"))
        with Path(log).open("ab") as stream:
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task)}
            process = subprocess.Popen(["bash", script], env=environment, stdout=stream, stderr=stream)
            (home / f"{job}_{task}.pid").write_text(str(process.pid))
            codes.append(process.wait())
(home / f"{job}.ended").write_text(str(max(map(abs, codes), default=1)))
