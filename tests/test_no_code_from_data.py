"""Promise 9: nothing that is read is unpickled or run.

`run_under_hook` runs Python code in its own process under an audit hook that fails on unpickling,
on new programs, and on code objects that come from no installed module.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOOK = '''
import os, sys, sysconfig

ROOTS = tuple({os.path.realpath(path) + os.sep for path in (
    *(sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")), ROOT
)})
# collections.namedtuple, dataclasses and enum generate source
OWN = ("<string>", "<template>", "<attrs generated", "<__array_function__ internals>")
OWNERS = ("collections", "dataclasses", "enum", "typing", "functools", "numpy", "pyarrow", "attr")
BANNED = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
          "os.fork", "os.forkpty", "os.spawn")


# the child that reads files; test_reading_runs_no_code_from_data runs its code in-process
READER = [sys.executable, "-P", "-m", "musicgen.corpus.sandbox"]


def hook(event, args):
    if event == "subprocess.Popen" and args[:2] == (sys.executable, READER):
        return
    if event in BANNED:
        stop(f"{event} {args}")
    if event == "exec" and not installed(args[0].co_filename):
        stop(f"exec of {args[0].co_filename}")


def installed(name):
    if not os.path.isabs(name):
        return name.startswith("<frozen ") or (name.startswith(OWN) and by_library())
    return os.path.realpath(name).startswith(ROOTS)


def by_library():
    """Tell whether a module of a library asked for generated code."""
    frame = sys._getframe(3)
    while frame and frame.f_code.co_filename.startswith("<frozen "):
        frame = frame.f_back
    return frame is None or str(frame.f_globals.get("__name__")).split(".")[0] in OWNERS


def stop(words):
    os.write(2, f"AUDIT: {words}\\n".encode())
    os._exit(99)


sys.addaudithook(hook)
'''


def run_under_hook(
    code: str, *arguments: str | Path, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run code under the hook; exit code 99 and "AUDIT: ..." report a forbidden event.

    `before` runs without the hook: torch generates source while it loads.
    """
    program = f"ROOT = {str(ROOT)!r}\n{before}\n{HOOK}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_clean(process: subprocess.CompletedProcess[str]) -> None:
    """Fail with what the hook reported."""
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import pickle; pickle.loads(pickle.dumps(ValueError))", "AUDIT: pickle.find_class"),
        ("import subprocess; subprocess.run(['true'])", "AUDIT: subprocess.Popen"),
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-P', '-m', 'this'])",
            "AUDIT: subprocess.Popen",
        ),
        ("import os; os.system('true')", "AUDIT: os.system"),
        ("exec('1 + 1')", "AUDIT: exec of <string>"),
        ("eval('1 + 1')", "AUDIT: exec of <string>"),
        ("exec(compile('1 + 1', '/etc/passwd', 'exec'))", "AUDIT: exec of /etc/passwd"),
        ("import sys; sys.path.insert(0, sys.argv[1]); import evil", "AUDIT: exec of"),
    ],
)
def test_audit_hook_detects(code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("pass")
    process = run_under_hook(code, tmp_path)
    assert process.returncode == 99
    assert message in process.stderr


BUILD = """
import sys
from pathlib import Path
from musicgen.corpus import store
from musicgen.corpus.build import build
dataset, report = build([sys.argv[1]], jobs=0)  # in this process, under the hook
store.save(dataset, Path(sys.argv[2]))
assert store.load(Path(sys.argv[2])) == dataset
assert report.kept == 3, report.refusals
"""

EVIL = """%%abc-include /etc/passwd
X:1
T:__import__('os').system('true')
T:../../{0}{title.__class__}
M:6/8
K:D
DEF|GAB|DEF|GAB|

X:2
T:$(touch evil); `touch evil`
M:6/8
K:G
"@^cos\\npickle" DEF|GBB|DEF|GBB|
"""


def test_build_runs_no_code_from_data(tmp_path: Path) -> None:
    import pickle  # noqa: TID251 - only to put one in the way

    from musicgen.formats import write
    from musicgen.music.score import Note, Score

    folder = tmp_path / "tunes"
    folder.mkdir()
    (folder / "evil.abc").write_text(EVIL)
    (folder / "evil.mid").write_bytes(pickle.dumps(ValueError))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    notes = tuple(Note(48 * n, 60 + n * n % 7, 48) for n in range(8))
    write(Score(notes, title="cos\nsystem\n(S'true'\ntR."), folder / "tune.mid")
    assert_clean(run_under_hook(BUILD, folder, tmp_path / "data"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tunes"]


READ = """
import io, json, sys
from musicgen.corpus.sandbox import ReadLimits, serve
from musicgen.tokens.measures import MeasuresCodec
requests = [json.dumps({"path": path, "name": path, "named": False, "first": 0}).encode()
            for path in sys.argv[1:]]
answers_file = io.BytesIO()
serve(requests, answers_file, MeasuresCodec(), ReadLimits())
answers = [json.loads(line) for line in answers_file.getvalue().splitlines()]
assert sum("done" in answer for answer in answers) == len(sys.argv) - 1
assert sum("tune" in answer for answer in answers) == 2, answers
"""


def test_reading_runs_no_code_from_data(tmp_path: Path) -> None:
    import pickle  # noqa: TID251 - only to put one in the way

    (tmp_path / "evil.abc").write_text(EVIL)
    (tmp_path / "evil.mid").write_bytes(pickle.dumps(ValueError))
    assert_clean(run_under_hook(READ, tmp_path / "evil.abc", tmp_path / "evil.mid"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.abc", "evil.mid"]


TRAINING_IMPORTS = """
import torch
from musicgen.corpus.build import build
from musicgen.training.plan import TrainingOptions, make_plan
from musicgen.errors import Interrupted
from musicgen.training.resume import is_finished, load_saved_run
from musicgen.training.run import TrainingRun
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
"""

TRAIN = """
import sys
from pathlib import Path
dataset, _ = build([sys.argv[1]], jobs=0)
folder = Path(sys.argv[2])
plan = make_plan(dataset, TrainingOptions(hidden=8, epochs=2, batch=2, bptt=16))
run = TrainingRun(dataset, plan, "evil", folder)
try:
    for progress in run.train():
        run.stop()
except Interrupted:
    saved = load_saved_run(folder)
    assert saved is not None
    assert saved.step == 1
    resumed = TrainingRun.resume(saved, dataset, folder)
    assert [progress.is_last for progress in resumed.train()][-1]
assert is_finished(folder)
"""

SAMPLE = """
import sys
from musicgen import formats, load
tune = load(sys.argv[1]).sample(seed=1, bars=2)
for path in sys.argv[2:]:
    tune.write(path)
    (score,), refusals = formats.read(path)
    assert not refusals
"""


def test_training_and_sampling_run_no_code_from_data(tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    (folder / "evil.abc").write_text(EVIL)
    model = tmp_path / "model"
    assert_clean(run_under_hook(TRAIN, folder, model, before=TRAINING_IMPORTS))
    assert_clean(run_under_hook(SAMPLE, model, tmp_path / "song.mid", tmp_path / "song.abc"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model", "song.abc", "song.mid", "tunes",
    ]  # fmt: skip
