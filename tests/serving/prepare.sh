#!/bin/sh
# Gets what the tests of serving need beside the Python packages: Chromium, and a real Triton server.
#
#   prepare.sh PYTHON FOLDER     the server comes to FOLDER/server, the packages of its Python to FOLDER/python
#
# The server is that of the wheel nvidia-pytriton. It needs Debian's libpython of the same version as PYTHON, and its
# outputs arrive empty with numpy 2, so its Python has packages of its own.
set -eu
python=$1
folder=$2
version=$("$python" -c "import sys; print('%d.%d' % sys.version_info[:2])")

if command -v apt-get >/dev/null; then
    "$(dirname "$0")/../../runtime/cpp/packages.sh" serving chromium chromium-driver "libpython$version"
fi

[ -e "$folder/.installed" ] && exit 0
rm -rf "$folder"
mkdir -p "$folder"
"$python" -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    >"$folder/requirements.txt"
"$python" -m pip install --quiet --no-deps --target "$folder/server" 'nvidia-pytriton>=0.7,<0.8'
"$python" -m pip install --quiet --no-warn-conflicts --target "$folder/python" 'numpy<2' --requirement "$folder/requirements.txt" \
    --constraint constraints.txt
triton="$folder/server/pytriton/tritonserver"
cp "$triton/python_backend_stubs/$version/triton_python_backend_stub" "$triton/backends/python/"
chmod +x "$triton/bin/tritonserver" "$triton/backends/python/triton_python_backend_stub"
touch "$folder/.installed"
