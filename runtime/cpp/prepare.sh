#!/bin/sh
# Gets what the C++ runtime's build and tests need on Debian: packages, and ONNX Runtime's headers.
#
#   prepare.sh FOLDER     the headers come to FOLDER/usr/include/onnxruntime
#
# The headers are those of Debian 13 (libonnxruntime-dev). They are only downloaded and unpacked, so they suit any release.
set -eu
folder=$1
packages="nlohmann-json3-dev doctest-dev libssl-dev libpng-dev libjpeg-dev ninja-build ccache clang libclang-rt-dev"

say() {
    echo "C++ runtime: $1" >&2
    exit 1
}

for tool in cmake c++; do
    command -v "$tool" >/dev/null || say "$tool is not installed: apt-get install cmake g++"
done
command -v apt-get >/dev/null || say "this is not Debian: install $packages and configure with -DONNXRUNTIME_ROOT=SDK"

# shellcheck disable=SC2086 # a list of words
"$(dirname "$0")/packages.sh" "C++ runtime" $packages

[ -e "$folder/usr/include/onnxruntime/onnxruntime_c_api.h" ] && exit 0
. /etc/os-release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources.d" "$folder"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.list /etc/apt/sources.list.d/debian.sources; do
    [ ! -e "$file" ] || sed "s/\b$VERSION_CODENAME\b/trixie/g" "$file" >"$work/sources.d/$(basename "$file")"
done
apt() {
    apt-get --quiet=2 -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources.d" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt update
(cd "$work" && apt download libonnxruntime-dev)
dpkg-deb --extract "$work"/libonnxruntime-dev_*.deb "$folder"
