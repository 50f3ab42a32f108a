"""Keys of the server behind keys."""

from __future__ import annotations

CHIEF = {"authorization": "Bearer chief-key"}
STRANGER = {"authorization": "Bearer stranger-key"}
