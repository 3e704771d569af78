"""Puts the dashboard on the application."""

from __future__ import annotations

from fastapi import FastAPI

from edgec.fleet.server import Services


def mount(app: FastAPI, services: Services) -> None:
    """Add the pages."""
