"""Build the wheel, install it in a clean environment and use it there, outside the repository.

The environment holds gngraph's wheel and nothing else. Its dependencies (6 GB with PyTorch) are borrowed from the
running interpreter through a path file; the path file comes after the environment's own packages, and the editable
gngraph of the running interpreter hangs on an import hook that a path file does not start, so that only the wheel's
files can be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORT_CHECK = """
import importlib.util, pathlib, sys
import gngraph, gngraph.passes
for module in (gngraph, gngraph.passes):
    assert pathlib.Path(module.__file__).resolve().is_relative_to(pathlib.Path(sys.prefix).resolve()), module.__file__
assert importlib.util.find_spec("passes") is None, "the wheel must not install a top-level package named passes"
print("imported from", pathlib.Path(gngraph.__file__).parent)
"""

MAKE_DATA = """
import numpy as np
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 240)
images = (rng.normal(size=(240, 1, 8, 8)) + labels[:, None, None, None]).astype("float32")
np.savez("own.npz", x_train=images[:180], y_train=labels[:180], x_test=images[180:], y_test=labels[180:])
"""

LOAD_WITHOUT_GNGRAPH = """
import importlib.util, sys
sys.modules["gngraph"] = None
import safetensors.torch, torch
from torch import nn
spec = importlib.util.spec_from_file_location("model", "run/model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
weights = safetensors.torch.load_file("run/weights.safetensors")
classes = [thing for thing in vars(model).values() if isinstance(thing, type) and thing.__module__ == "model"]
(network,) = [cls for cls in classes if issubclass(cls, nn.Module)]
instance = network()
instance.load_state_dict(weights)
assert instance.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
print("run/model.py works without gngraph")
"""

# A user's path through the command line: a seed, a look at it, growth on data of one's own, and what changed.
CLI_RUN = (
    ("--version",),
    ("--help",),
    ("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "1x8x8", "-o", "seed.gng"),
    ("inspect", "seed.gng"),
    ("grow", "seed.gng", "--data", "own.npz", "--max-params", "2k", "--rounds", "1", "--epochs", "1", "-o", "run"),
    ("inspect", "run/model.gng"),
    ("report", "run"),
)


def run(command: list[str], where: Path, environment: Mapping[str, str]) -> None:
    """Print and run ``command`` in ``where``; a failure shows its output and ends the check."""
    shown = " ".join(Path(word).name if os.sep in word else word for word in command if "\n" not in word)
    start = time.monotonic()
    done = subprocess.run(command, cwd=where, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(f"  {shown}  ({time.monotonic() - start:.1f} s)", flush=True)
    if done.returncode:
        sys.exit(f"wheel smoke test: exit status {done.returncode}, and this output:\n{done.stdout}{done.stderr}")


def build(into: Path, environment: Mapping[str, str]) -> Path:
    """Build sdist and, from it, the wheel, so that both are proved; return the wheel's path."""
    run([sys.executable, "-m", "build", "--outdir", str(into), str(ROOT)], into, environment)
    (wheel,) = into.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds every module of the tree, ``py.typed``, the licence, and nothing else at its top level."""
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gngraph").rglob("*.py")}
    modules |= {f"gngraph/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "passes").rglob("*.py")}
    metadata = next(name.split("/")[0] for name in held if name.endswith(".dist-info/METADATA"))
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gngraph/report/page").iterdir()}
    missing = (modules | page | {"gngraph/py.typed", f"{metadata}/licenses/LICENSE"}) - held
    foreign = {name for name in held if name.split("/")[0] not in {"gngraph", metadata}}
    if missing or foreign:
        sys.exit(f"wheel smoke test: {wheel.name} lacks {sorted(missing)} and holds, out of place, {sorted(foreign)}")
    print(f"  {wheel.name}: {len(modules)} modules, {wheel.stat().st_size / 1024:.0f} KB", flush=True)


def clean_environment(at: Path, wheel: Path, environment: Mapping[str, str]) -> Path:
    """Make an environment of the wheel alone, then let it see this interpreter's packages; return its bin folder."""
    run([sys.executable, "-m", "venv", "--without-pip", str(at)], at.parent, environment)
    scripts = at / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], at.parent, environment)
    purelib = sysconfig.get_path("purelib", "venv", {"base": str(at), "platbase": str(at)})
    borrowed = [folder for folder in sys.path if Path(folder).name == "site-packages"]
    Path(purelib, "borrowed-dependencies.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    run([*pip, "check"], at.parent, environment)
    return scripts


def main() -> None:
    """Run the whole check in a temporary folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with tempfile.TemporaryDirectory(prefix="gngraph-wheel-") as name:
        folder = Path(name)
        wheel = build(folder, environment)
        check_contents(wheel)
        scripts = clean_environment(folder / "environment", wheel, environment)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        python = str(scripts / "python")
        for code in (IMPORT_CHECK, MAKE_DATA):
            run([python, "-c", code], elsewhere, environment)
        for arguments in CLI_RUN:
            run([str(scripts / "gngraph"), *arguments], elsewhere, environment)
        run([python, "-c", LOAD_WITHOUT_GNGRAPH], elsewhere, environment)
    print("the wheel works outside the repository")


if __name__ == "__main__":
    main()
