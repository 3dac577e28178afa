"""Binary logs that are encrypted on the source's disk: the dump is plain, and nothing is different for us."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from replicator import binaries
from replicator.servers import Server, ServerFailed, start_mariadb, start_mysql
from tests.streams import describe, list_changes, open_root_reader, read_transactions

ENCRYPTED = b"\xfdbin"
PLAIN = b"\xfebin"


def assert_is_read(server: Server) -> None:
    server.execute("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v VARCHAR(20))")
    reader = open_root_reader(server)
    start, tables = reader.position(), describe(reader, "d", "t")
    for number in range(3):
        server.execute(f"INSERT INTO d.t VALUES ({number}, 'a secret'); FLUSH BINARY LOGS")
    server.restart()
    server.execute("INSERT INTO d.t VALUES (3, 'a secret')")
    items = read_transactions(reader, start, tables)
    assert [c[3] for c in list_changes(items)] == [[(n, b"a secret")] for n in range(4)]
    assert len(read_transactions(reader, items[1].position, tables)) == 2
    reader.close()
    for name, *_ in server.execute("SHOW BINARY LOGS"):
        assert b"a secret" not in (server.datadir / str(name)).read_bytes()


def test_an_encrypted_log_of_mysql_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keyring is a component that must be configured beside the server's program: a tree of links has one of its own."""
    real = binaries.find("mysql")
    if not real.loader:
        pytest.skip("the machine's own MySQL cannot be given a keyring by a test")
    base = tmp_path / "mysql"
    subprocess.run(["cp", "-rs", str(real.basedir), str(base)], check=True)
    (base / "usr/sbin/mysqld.my").write_text(json.dumps({"components": "file://component_keyring_file"}))
    keyring = {"path": str(tmp_path / "keyring"), "read_only": False}
    (base / "usr/lib/mysql/plugin/component_keyring_file.cnf").write_text(json.dumps(keyring))
    monkeypatch.setattr(binaries, "find", lambda _: dataclasses.replace(real, basedir=base))
    with start_mysql(binlog_encryption=True) as server:
        first = server.datadir / str(server.execute("SHOW BINARY LOGS")[0][0])
        assert first.read_bytes()[:4] == ENCRYPTED
        assert_is_read(server)


def test_an_encrypted_log_of_mariadb_is_read(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"1;{'a1' * 32}\n")
    try:
        server = start_mariadb(
            plugin_load_add="file_key_management", file_key_management_filename=str(keys), encrypt_binlog=True
        )
    except ServerFailed as error:
        if "file_key_management" not in error.message:
            raise
        pytest.skip("this MariaDB comes without the plugin file_key_management")
    with server:
        first = server.datadir / str(server.execute("SHOW BINARY LOGS")[0][0])
        assert first.read_bytes()[:4] == PLAIN  # the format description stands before the encryption
        assert_is_read(server)
