"""Declarative change data capture: MySQL and MariaDB sources, mirrored into a cloud MySQL."""

__version__ = "0.1.0"
