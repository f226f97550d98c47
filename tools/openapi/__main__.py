"""Writes the description to where it is served from."""

from pathlib import Path
from typing import Final

from tools.openapi import document

FILE: Final = Path("functions/docs/openapi.json")

if __name__ == "__main__":
    FILE.write_text(document.text(), encoding="utf-8")
