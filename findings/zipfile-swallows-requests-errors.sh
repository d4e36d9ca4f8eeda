#!/usr/bin/env bash
# A broken connection while zipfile reads through requests is reported as a file that is not a ZIP archive.
# Guess before the run: the network's error comes through.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet requests==2.32.5
cd "$place"
venv/bin/python - <<'PYTHON'
import io
import sys
import zipfile

import requests

archive = io.BytesIO()
with zipfile.ZipFile(archive, "w") as written:
    written.writestr("a.txt", "hello")


class Remote(io.BytesIO):
    """A file read by requests whose connection breaks."""

    def read(self, *arguments):
        raise requests.exceptions.ConnectionError("connection reset by the server")


try:
    zipfile.ZipFile(Remote(archive.getvalue()))
except Exception as error:
    seen = type(error).__name__, str(error)
print("Python", sys.version.split()[0], "requests", requests.__version__, seen)
assert issubclass(requests.exceptions.ConnectionError, OSError)
assert seen == ("BadZipFile", "File is not a zip file"), f"changed: {seen}"
print("as seen before: the error is an OSError to zipfile, which takes it for the end of its search")
PYTHON
