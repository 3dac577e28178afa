"""How throwaway servers are described before any of them starts, and what their certificates say."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from replicator import binaries, servers
from replicator.binaries import Installation
from replicator.certificates import make_certificates
from replicator.errors import MissingBinary


def option(name: str, value: servers.Setting) -> str:
    return servers._build_option(name, value)


def test_options_are_written_as_the_servers_read_them() -> None:
    assert option("gtid_mode", True) == "--gtid-mode=ON"
    assert option("gtid_mode", False) == "--gtid-mode=OFF"
    assert option("skip_log_bin", True) == "--skip-log-bin"
    assert option("sync_binlog", 1) == "--sync-binlog=1"
    assert option("secure_file_priv", "") == "--secure-file-priv="


def test_callers_settings_win_over_defaults() -> None:
    settings = servers._resolve_settings("mysql", True, None, {"binlog_row_image": "MINIMAL", "server_id": 7})
    assert settings["binlog_row_image"] == "MINIMAL"
    assert settings["server_id"] == 7
    assert settings["sync_binlog"] == 1


@pytest.mark.parametrize("off", [False, 0, "OFF"])
def test_a_server_without_log_names_no_log_file(off: servers.Setting) -> None:
    settings = servers._resolve_settings("mariadb", False, None, {"log_bin": off})
    assert settings["log_bin"] is None
    assert settings["skip_log_bin"] is True


def test_two_servers_differ_in_server_id() -> None:
    ids = {servers._resolve_settings("mysql", False, None, {})["server_id"] for _ in range(5)}
    assert len(ids) == 5


def test_a_port_in_use_is_not_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = servers._pick_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr("random.randrange", lambda *_: next(ports))
        assert servers._pick_port() == free


def test_missing_binaries_say_make_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingBinary, match=r"MySQL >= 8\.0\.20") as caught:
        servers.start_mysql()
    assert "make setup" in caught.value.hint


def test_a_machine_without_apt_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingBinary, match="no apt-get") as caught:
        binaries.bring("mariadb")
    assert "apt-get install mariadb-server" in caught.value.hint


def test_unpacked_programs_run_by_their_own_loader(tmp_path: Path) -> None:
    program = tmp_path / "usr/sbin/mysqld"
    program.parent.mkdir(parents=True)
    program.touch()
    installation = Installation("mysql", (9, 7, 4), tmp_path, ("/loader", "--library-path", "/libraries"))
    assert installation.command("mysqld") == ["/loader", "--library-path", "/libraries", str(program)]
    with pytest.raises(MissingBinary, match="mysqldump"):
        installation.command("mysqldump")


@pytest.mark.parametrize(
    ("name", "text", "mirror"),
    [
        (
            "a.list",
            "deb [arch=amd64] https://mirror.example/debian/ trixie main\n",
            "https://mirror.example/debian/",
        ),
        ("a.list", "deb https://tools.example/linux/debian trixie stable\n", binaries.DEFAULT_MIRROR),
        ("a.list", "# deb https://mirror.example/debian trixie main\n", binaries.DEFAULT_MIRROR),
        ("a.list", "deb http://mirror.example/ubuntu noble main\n", binaries.DEFAULT_MIRROR),
        (
            "a.sources",
            "Types: deb\nURIs: http://s.example/debian-security\nSuites: s\nComponents: main\n\n"
            "Types: deb\n# note\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: s\nComponents: main\n",
            "mirror+file:/etc/apt/mirrors/debian.list",
        ),
    ],
)
def test_the_machines_own_debian_mirror_is_used(tmp_path: Path, name: str, text: str, mirror: str) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / name).write_text(text)
    assert binaries.find_mirror(tmp_path) == mirror


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", (9, 7, 4)),
        ("mariadbd  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu", (10, 11, 18)),
        ("cannot execute", (0, 0, 0)),
    ],
)
def test_versions_are_read_from_the_banner(banner: str, version: binaries.Version) -> None:
    assert binaries._parse_version(banner) == version


def test_certificates_name_the_hosts_asked_for(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ("db.example", "127.0.0.1"))
    assert made.key.stat().st_mode & 0o077 == 0
    context = ssl.create_default_context(cafile=str(made.ca))
    context.load_cert_chain(str(made.cert), str(made.key))
    authority = context.get_ca_certs()
    assert len(authority) == 1
    text = ssl._ssl._test_decode_cert(str(made.cert))  # type: ignore[attr-defined]
    assert text["subjectAltName"] == (("DNS", "db.example"), ("IP Address", "127.0.0.1"))
