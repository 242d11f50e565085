#!/bin/sh
# Installs the Debian packages that are missing, or names them if it may not.
#
#   packages.sh WHAT PACKAGE...     WHAT needs them; it begins the message
set -eu
exec 9<"$0" && flock 9 # apt-get fails if two run at a time
what=$1
shift
missing=""
for package in "$@"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "$what: packages are missing: sudo apt-get install$missing" >&2
    exit 1
fi
apt-get update --quiet=2
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $missing >/dev/null || {
    echo "$what: these packages cannot be installed:$missing" >&2
    exit 1
}
