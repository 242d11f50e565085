"""Elements of a page. ElementTree escapes whatever text it is given."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement


def element(parent: Element | None, tag: str, text: str = "", /, **attributes: Any) -> Element:
    """Return a new element in ``parent``; an attribute ``class_`` is ``class``, and ``_`` in names is ``-``."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    made = Element(tag, named) if parent is None else SubElement(parent, tag, named)
    made.text = text or None
    return made
