"""Bring the binaries of throwaway servers; `make setup` calls it, `servers.py` finds what it brought.

MySQL comes from Debian unstable (the only Debian suite that has it), MariaDB from Debian 12, PostgreSQL from both, each
with the whole closure of its libraries, C library and loader included, unpacked into a private prefix under the user's
cache. Nothing is installed, no privilege is needed, the system's own servers are never touched, and all products run
the same on every machine. A server that the machine has is used only where unpacking is impossible.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from replicator.errors import MissingBinary

Kind = Literal["mysql", "mariadb", "postgres"]
Name = Literal["mysql", "mariadb", "postgres", "postgres_newest"]
Version = tuple[int, int, int]

DEBIAN_KEYRINGS = tuple(
    Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg")
)
DEFAULT_MIRROR = (
    "http://deb.debian.org/debian"  # where the machine's own sources name no Debian mirror (Ubuntu)
)


@dataclass(frozen=True, slots=True)
class Product:
    """Where one product comes from and the oldest version that will do; ``folder`` holds its programs."""

    name: Name
    kind: Kind
    title: str
    suite: str
    packages: tuple[str, ...]
    program: str
    minimum: Version
    folder: str = "usr/sbin"


_POSTGRES_FOLDER = "usr/lib/postgresql/*/bin"

PRODUCTS: dict[Name, Product] = {
    product.name: product
    for product in (
        Product(
            "mysql", "mysql", "MySQL", "sid", ("mysql-server-core", "mysql-client-core"), "mysqld", (8, 0, 20)
        ),
        Product(
            "mariadb",
            "mariadb",
            "MariaDB",
            "bookworm",
            ("mariadb-server-core", "mariadb-client-core"),
            "mariadbd",
            (10, 5, 0),
        ),
        Product(
            "postgres",
            "postgres",
            "PostgreSQL",
            "bookworm",
            ("postgresql",),
            "postgres",
            (13, 0, 0),
            _POSTGRES_FOLDER,
        ),
        Product(
            "postgres_newest",
            "postgres",
            "PostgreSQL",
            "sid",
            ("postgresql",),
            "postgres",
            (16, 0, 0),
            _POSTGRES_FOLDER,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Installation:
    """One product's programs: unpacked under ``basedir``, or the machine's own (then ``loader`` is empty)."""

    kind: Kind
    version: Version
    basedir: Path
    loader: tuple[str, ...]

    def command(self, program: str) -> list[str]:
        """The start of a command line that runs ``program`` (mysqld, mysqldump, mariadb, postgres, initdb, …)."""
        for folder in (_POSTGRES_FOLDER, "usr/sbin", "usr/bin", "sbin", "bin", "libexec"):
            for path in self.basedir.glob(f"{folder}/{program}"):
                return [*self.loader, str(path)]
        raise MissingBinary(f"{program} is not in {self.basedir}", hint="run `make setup`")

    @property
    def share(self) -> Path:
        """The folder of error messages and, for MariaDB, of the scripts that make the system tables."""
        folders = [
            self.basedir / name for name in ("usr/share/mysql", "share/mysql", "share/mariadb", "share")
        ]
        return next((folder for folder in folders if (folder / "english").is_dir()), folders[0])


def cache_folder() -> Path:
    """The project's folder in the user's cache; absolute, not necessarily there yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "replicator"


def find(name: Name) -> Installation:
    """The product's programs here: the unpacked ones, else the machine's own, else MissingBinary."""
    product = PRODUCTS[name]
    found = _find_unpacked(product) or _find_installed(product)
    if found is None:
        raise MissingBinary(
            f"throwaway servers need {product.title} >= {_dotted(product.minimum)}, and this machine has none",
            hint="run `make setup` in the project's checkout",
        )
    return found


def bring(name: Name) -> Installation:
    """Make sure the product is there, unpacking it when it is not; MissingBinary says what to install."""
    product = PRODUCTS[name]
    found = _find_unpacked(product)
    if found is not None:
        return found
    with _locked(cache_folder()):
        try:
            return _find_unpacked(product) or _unpack(product)
        except MissingBinary as reason:
            found = _find_installed(product)
            if found is None:
                raise
            _say(f"{reason.message}; using this machine's {product.title} {_dotted(found.version)}")
            return found


def _prefix(product: Product) -> Path:
    return cache_folder() / "servers" / product.name


def _find_unpacked(product: Product) -> Installation | None:
    prefix = _prefix(product)
    try:
        version = _parse_version((prefix / "VERSION").read_text())
    except FileNotFoundError:
        return None
    return Installation(product.kind, version, prefix, _loader(prefix))


def _loader(prefix: Path) -> tuple[str, ...]:
    """The prefix's own dynamic loader and library path: its C library is not the machine's."""
    folders = [path for top in ("usr/lib", "lib") for path in sorted((prefix / top).glob("*-linux-gnu*"))]
    loaders = [path for folder in folders for path in sorted(folder.glob("ld-linux*.so.*"))]
    if not loaders:
        raise MissingBinary(f"no dynamic loader in {prefix}", hint=f"remove {prefix} and run `make setup`")
    return (str(loaders[0]), "--library-path", ":".join(str(folder) for folder in folders))


def _find_installed(product: Product) -> Installation | None:
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin:/usr/libexec"
    path = shutil.which(product.program, path=search)
    if path is None:
        return None
    banner = _output([path, "--version"])
    version = _parse_version(banner)
    if ("MariaDB" in banner) != (product.kind == "mariadb") or version < product.minimum:
        return None
    return Installation(product.kind, version, Path(path).resolve().parent.parent, ())


def _parse_version(text: str) -> Version:
    """The first two or three numbers joined by dots; PostgreSQL has two, and one with a word before a release."""
    match = re.search(r"(\d+)(?:\.|devel|beta|rc)(\d*)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2] or 0), int(match[3] or 0)) if match else (0, 0, 0)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


# --- unpacking ------------------------------------------------------------------------------------


def _unpack(product: Product) -> Installation:
    _require_tools(product)
    _say(f"fetching {product.title} from Debian {product.suite} into {_prefix(product)}")
    with tempfile.TemporaryDirectory(dir=_parent(product), prefix=f".{product.name}-") as name:
        folder = Path(name)
        source = f"deb [signed-by={_keyring(folder)}] {find_mirror()} {product.suite} main\n"
        debs = _download(folder / "apt", product, source)
        staging = folder / "prefix"
        for deb in debs:
            _run(product, ["dpkg", "-x", str(deb), str(staging)])
        _drop_unused(staging)
        program = next(staging.glob(f"{product.folder}/{product.program}"))
        banner = _output([*_loader(staging), str(program), "--version"])
        version = _parse_version(banner)
        if version < product.minimum:
            raise _impossible(product, f"the unpacked {product.program} does not run: {banner.strip()}")
        if product.kind == "postgres":
            _wrap_postgres(program)
        (staging / "VERSION").write_text(_dotted(version) + "\n")
        staging.rename(_prefix(product))
    _say(f"{product.title} {_dotted(version)} is ready")
    return Installation(product.kind, version, _prefix(product), _loader(_prefix(product)))


def _wrap_postgres(program: Path) -> None:
    """initdb runs the server beside it by its path: a script there calls the server with the prefix's own loader."""
    server = program.with_name("postgres.server")
    program.rename(server)
    program.write_text(
        '#!/bin/sh\nhere=$(dirname "$0")\ntop=$here/../../../../..\n'
        'for loader in "$top"/usr/lib/*-linux-gnu*/ld-linux*.so.* "$top"/lib/*-linux-gnu*/ld-linux*.so.*; do\n'
        '  [ -e "$loader" ] && break\ndone\n'
        'path=$(printf "%s:" "$top"/usr/lib/*-linux-gnu* "$top"/lib/*-linux-gnu*)\n'
        'exec "$loader" --library-path "$path" "$here/postgres.server" "$@"\n'
    )
    program.chmod(0o755)


def _parent(product: Product) -> Path:
    parent = _prefix(product).parent
    parent.mkdir(parents=True, exist_ok=True)
    # What an interrupted run left behind; _locked() keeps a running one out.
    for stale in parent.glob(f".{product.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    return parent


def _require_tools(product: Product) -> None:
    missing = [tool for tool in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise _impossible(product, f"this machine has no {' and no '.join(missing)}")


def _impossible(product: Product, reason: str) -> MissingBinary:
    package = "postgresql" if product.kind == "postgres" else f"{product.kind}-server"
    return MissingBinary(
        f"{product.title} cannot be unpacked: {reason}",
        hint=f"install {product.title} >= {_dotted(product.minimum)} so that `{product.program}` is in PATH "
        f"(Debian, Ubuntu: apt-get install {package}; Fedora: dnf install {package}), "
        "or run `make setup` on Debian or Ubuntu with network access, then again here",
    )


def find_mirror(etc: Path = Path("/etc/apt")) -> str:
    """The Debian mirror that the machine's own package sources name: a company may allow no other."""
    if os.environ.get("REPLICATOR_DEBIAN_MIRROR"):
        return os.environ["REPLICATOR_DEBIAN_MIRROR"]
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if file.suffix in {".list", ".sources"} and file.is_file():
            for entry in _split_sources(file):
                match = re.search(r"\S+:\S*/debian(?:\.list)?/?(?=\s|$)", entry)
                if match and re.search(r"\smain(\s|$)", entry):  # others serve …/debian too, without a `main`
                    return match[0]
    return DEFAULT_MIRROR


def _split_sources(file: Path) -> list[str]:
    """The file's entries without comments: lines of a .list, paragraphs of a .sources file."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if not line.startswith("#")]
    return lines if file.suffix == ".list" else "\n".join(lines).split("\n\n")


def _keyring(folder: Path) -> Path:
    """Debian's signing keys: the machine's, or those of the package that its own (signed) sources offer."""
    for keyring in DEBIAN_KEYRINGS:
        if keyring.exists():
            return keyring
    product = Product("mysql", "mysql", "Debian's keyring", "", ("debian-archive-keyring",), "", (0, 0, 0))
    for deb in _download(folder / "keyring-apt", product, None):
        _run(product, ["dpkg", "-x", str(deb), str(folder / "keyring")])
    unpacked = [folder / "keyring" / keyring.relative_to("/") for keyring in DEBIAN_KEYRINGS]
    return next(path for path in unpacked if path.exists())


def _download(folder: Path, product: Product, source: str | None) -> list[Path]:
    """Fetch the packages and, as onto an empty machine, all they depend on; the paths of the .deb files.

    ``source`` is a one-line apt source, or None for the machine's own sources.
    """
    archives = folder / "archives"
    for path in (folder / "lists" / "partial", folder / "state", archives / "partial"):
        path.mkdir(parents=True)
    config = folder / "apt.conf"
    config.write_text(_apt_config(folder, source))
    environment = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}
    _run(product, ["apt-get", "update", "--error-on=any"] if source else ["apt-get", "update"], environment)
    _run(product, ["apt-get", "install", "--yes", "--download-only", *product.packages], environment)
    return sorted(path for path in archives.glob("*.deb") if not path.name.startswith(("perl", "libperl")))


def _apt_config(folder: Path, source: str | None) -> str:
    (folder / "status").touch()
    etc = Path("/etc/apt")
    theirs = [f"{etc}/apt.conf.d/"] * (etc / "apt.conf.d").is_dir() + [f"{etc}/apt.conf"] * (
        etc / "apt.conf"
    ).is_file()
    lines = [
        # Apt reads this file before the machine's. Ours must have the last word, so it takes theirs in (they know
        # the proxy) and keeps apt from reading them again.
        'Dir::Etc::parts "/dev/null";',
        'Dir::Etc::main "/dev/null";',
        *(f"#include {path};" for path in theirs),
        # The machine's hooks empty the system's caches and talk to its desktop: not ours to run.
        "#clear APT::Update::Post-Invoke;",
        "#clear APT::Update::Post-Invoke-Success;",
        "#clear DPkg::Post-Invoke;",
        "#clear DPkg::Pre-Install-Pkgs;",
        "#clear Acquire::IndexTargets::deb::DEP-11;",
        f'Dir::State "{folder}/state";',
        f'Dir::State::lists "{folder}/lists";',
        f'Dir::State::status "{folder}/status";',
        f'Dir::Cache "{folder}";',
        f'Dir::Cache::archives "{folder}/archives";',
        'APT::Sandbox::User "";',
        'APT::Install-Recommends "false";',
        'Acquire::Languages "none";',
        'Acquire::Retries "2";',
        'Acquire::http::Timeout "20";',
        'Debug::NoLocking "true";',
    ]
    if source is not None:
        (folder / "sources.list").write_text(source)
        lines += [f'Dir::Etc::sourcelist "{folder}/sources.list";', 'Dir::Etc::sourceparts "/dev/null";']
    return "\n".join(lines) + "\n"


def _drop_unused(staging: Path) -> None:
    for name in ("doc", "man", "locale", "perl", "mysql-test", "info"):
        shutil.rmtree(staging / "usr/share" / name, ignore_errors=True)


def _run(product: Product, command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise _impossible(product, f"`{' '.join(command[:4])}` failed with {done.returncode}: {said}")


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep two set-ups of one user apart."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "setup.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)  # noqa: T201


def main() -> None:
    """Bring every product; exit with the error's code and its hint where one cannot be had."""
    try:
        for name in PRODUCTS:
            bring(name)
    except MissingBinary as error:
        _say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
