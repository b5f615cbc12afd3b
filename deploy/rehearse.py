"""Runs the steps of deploy/Dockerfile without Docker, so that they are tested where no engine is.

    python deploy/rehearse.py FOLDER

Every COPY and RUN happens as written, in FOLDER: COPY takes from the checkout what .dockerignore lets through, RUN is
run by sh with the ARGs and ENVs of its stage. SOURCE and PREFIX, the arguments that say where things go, lie in FOLDER;
that is the only difference, besides the base image, whose part this Python plays. At the end FOLDER holds the image's
folders, and image.json what the image says about itself (environment, user, entrypoint, command, health check).
Standard library only. Exit code 1: a step failed; 2: the Dockerfile has something that is not understood here.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHERE = ("SOURCE", "PREFIX")  # arguments that are folders
SAID = ("LABEL", "EXPOSE", "STOPSIGNAL")  # nothing to do, only to keep


class Unknown(Exception):
    """The Dockerfile has something that is not understood here."""


@dataclass
class Stage:
    """What a stage has said so far."""

    base: str
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    said: dict[str, object] = field(default_factory=dict)


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions in order: name, and the rest with its lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in joined.splitlines() if line.strip()
    ]


def filled_in(text: str, values: dict[str, str]) -> str:
    """The text with $NAME and ${NAME} replaced, as in every instruction but RUN, CMD and ENTRYPOINT."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def let_through(path: Path, rules: list[str]) -> bool:
    """Whether .dockerignore leaves a file (relative to the checkout) in the context; the last rule that fits wins."""
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents if parent != Path())]
    kept = True
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        every = [pattern, pattern.removeprefix("**/")] if pattern.startswith("**/") else [pattern]
        tried = names + [name.rsplit("/", 1)[-1] for name in names] if pattern.startswith("**/") else names
        if any(fnmatch.fnmatchcase(name, each) for name in tried for each in every):
            kept = rule.startswith("!")
    return kept


class Rehearsal:
    """One run through the Dockerfile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.where = {name: str(self.folder / name.lower()) for name in WHERE}
        self.global_args: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        self.stage: Stage | None = None
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        self.rules = [rule.strip() for rule in ignored if rule.strip() and not rule.startswith("#")]

    def run(self, dockerfile: Path) -> None:
        """Every step, then image.json."""
        for name, rest in instructions(dockerfile.read_text(encoding="utf-8")):
            print(f"{name} {rest}", flush=True)  # noqa: T201
            step = getattr(self, f"_{name.lower()}", None)
            if step is not None:
                step(rest)
            elif name in SAID:
                self._stage.said[name] = rest
            else:
                raise Unknown(f"{name} is not understood by this rehearsal")
        image = {"env": self._stage.env, "workdir": self._stage.workdir, "base": self._stage.base, **self._stage.said}
        (self.folder / "image.json").write_text(json.dumps(image, indent=1), encoding="utf-8")

    @property
    def _stage(self) -> Stage:
        if self.stage is None:
            raise Unknown("there is no FROM yet")
        return self.stage

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        if self.stage is None:
            self.global_args[name] = default
        else:
            self.stage.env[name] = self.where.get(name, default or self.global_args.get(name, ""))

    def _from(self, rest: str) -> None:
        words = filled_in(rest, self.global_args).split()
        self.stage = Stage(words[0], {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"})
        self.stages[words[2] if len(words) == 3 else str(len(self.stages))] = self.stage

    def _workdir(self, rest: str) -> None:
        self._stage.workdir = filled_in(rest, self._stage.env)
        Path(self._stage.workdir).mkdir(parents=True, exist_ok=True)

    def _env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self._stage.env[name] = filled_in(value, self._stage.env)

    def _copy(self, rest: str) -> None:
        *sources, target = filled_in(rest, self._stage.env).split()
        if sources[0].startswith("--from="):
            stage = sources.pop(0).removeprefix("--from=")
            if stage not in self.stages or any(not Path(source).exists() for source in sources) or sources != [target]:
                raise Unknown(f"COPY {rest}: {stage} has no such thing, or it goes elsewhere")
            return  # the folder is the same one here
        for source in sources:
            self._copy_in(source, Path(self._stage.workdir, target))

    def _copy_in(self, source: str, target: Path) -> None:
        found = ROOT / source
        files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())
        files = [file for file in files if let_through(file.relative_to(ROOT), self.rules)]
        if not files:
            raise Unknown(f"COPY {source}: there is nothing, or .dockerignore holds it back")
        for file in files:
            place = target / file.name if found.is_file() else target / file.relative_to(found)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)

    def _run(self, rest: str) -> None:
        # The index and the proxies of this machine come from the environment or pip's own file, as in a build.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith(("PIP_", "HTTP", "SSL", "HOME", "NO_PROXY"))
        }
        done = subprocess.run(["/bin/sh", "-ec", rest], cwd=self._stage.workdir, env=environment | self._stage.env)
        if done.returncode != 0:
            sys.exit(f"rehearsal: RUN ended with {done.returncode}")

    def _user(self, rest: str) -> None:
        self._stage.said["USER"] = rest

    def _entrypoint(self, rest: str) -> None:
        self._stage.said["ENTRYPOINT"] = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self._stage.said["CMD"] = json.loads(rest)

    def _healthcheck(self, rest: str) -> None:
        self._stage.said["HEALTHCHECK"] = json.loads(rest.partition("CMD ")[2])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)  # noqa: T201
        sys.exit(2)
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    try:
        Rehearsal(Path(sys.argv[1])).run(ROOT / "deploy" / "Dockerfile")
    except Unknown as trouble:
        print(f"rehearsal: {trouble}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
