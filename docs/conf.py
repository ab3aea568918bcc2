"""The site: `python -m sphinx -W docs build/site` writes it to build/site."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import disconnect_mw

_metadata = configparser.ConfigParser()
_metadata.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")

project = "disconnect_mw"
author = _metadata["metadata"]["author"]
copyright = author
version = release = disconnect_mw.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]

# Docstrings are written for editors: a name between single backticks is code.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"disconnect_mw {release}"
(html_baseurl,) = re.findall(r"Documentation = (\S+)", _metadata["metadata"]["project_urls"])
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
