#!/usr/bin/env bash
# Sets up what the demo or the tests need, and nothing that is there already; a second run takes a second.
#   usage: scripts/setup.sh demo|test
# Debian packages are installed as root or through sudo. Environment: PYTHON=/path/to/python3.11 picks the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly DEMO_PACKAGES=(orthanc orthanc-dicomweb dcmtk)
readonly TEST_PACKAGES=(dicom3tools pixelmed-apps default-jre-headless strace postgresql chromium npm
  golang-go golang-golang-x-mod-dev pypy3 poppler-utils poppler-data)
readonly PYTHON_NEEDED="3.11"
readonly VENV=".venv"
readonly STAMP="$VENV/.installed"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'error %s: %s\n' "$1" "$2" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

installed() {
  # Any version of PostgreSQL will do: one that is here is somebody's, and its server must not be touched.
  # An npm that came with another Node than Debian's will do as well.
  case "$1" in postgresql | npm) if tools_present "$1"; then return 0; fi ;; esac
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@"; }

known_to_apt() { apt-cache show --no-all-versions "$@" >/dev/null 2>&1; }

# Installs those of the named packages that are missing.
need_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null && for package in "$@"; do installed "$package" || missing+=("$package"); done
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    tools_present "$@" && return 0
    fail APT_MISSING "this machine has no apt-get; install these Debian packages, or what your system has for them: $*"
  fi
  [ "${#missing[@]}" -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    fail NOT_ROOT "neither root nor sudo; have an administrator run: apt-get install ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  local candidates=()
  for package in "${missing[@]}"; do known_to_apt "$package" || candidates+=("$package"); done
  if [ "${#candidates[@]}" -gt 0 ]; then apt update || fail APT_FAILED "apt-get update failed"; fi
  # Package lists that are old name versions that mirrors no longer have: then, and only then, update and try again.
  apt install -y "${missing[@]}" || { apt update && apt install -y "${missing[@]}"; } \
    || fail APT_FAILED "apt-get could not install ${missing[*]}"
  for package in "${missing[@]}"; do
    case "$package" in orthanc | postgresql) stop_packaged_server "$package" ;; esac
  done
}

# Where there is no apt, the programs may have come another way.
tools_present() {
  local package
  for package in "$@"; do
    case "$package" in
      orthanc) PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v Orthanc >/dev/null || return 1 ;;
      orthanc-dicomweb) ;;
      dcmtk) command -v storescu >/dev/null || return 1 ;;
      dicom3tools) command -v dciodvfy >/dev/null || return 1 ;;
      pixelmed-apps) command -v DicomSRValidator >/dev/null || return 1 ;;
      postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || return 1 ;;
      default-jre-headless) command -v java >/dev/null || return 1 ;;
      golang-go) command -v go >/dev/null || return 1 ;;
      poppler-utils) command -v pdftotext >/dev/null || return 1 ;;
      poppler-data) [ -d /usr/share/poppler/cMap ] || return 1 ;;
      golang-golang-x-mod-dev) [ -d /usr/share/gocode/src/golang.org/x/mod/sumdb ] || return 1 ;;
      *) command -v "$package" >/dev/null || return 1 ;;
    esac
  done
}

# The Debian packages of Orthanc (ports 8042, 4242) and PostgreSQL (5432) start a server of their own. We asked for the
# programs, not for that. Only after an installation by this script: a server that was here before is somebody's.
stop_packaged_server() {
  if [ -d /run/systemd/system ]; then
    as_root systemctl disable --now "$1.service" || say "note: $1.service could not be disabled"
  elif [ -x "/etc/init.d/$1" ]; then
    as_root "/etc/init.d/$1" stop >/dev/null 2>&1 || true
  fi
}

new_enough() { "$1" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$PYTHON_NEEDED'.split('.'))))" 2>/dev/null; }

# Prints the first interpreter that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then command -v "$candidate"; return 0; fi
  done
  return 1
}

# Makes .venv, and installs the project when pyproject.toml or constraints.txt changed since the last time.
need_venv() {
  local python wanted
  if ! { [ -x "$VENV/bin/python" ] && new_enough "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
    command -v python3 >/dev/null || need_packages python3 python3-venv
    python=$(find_python) \
      || fail PYTHON_TOO_OLD "Python >= $PYTHON_NEEDED is needed, python3 is $(python3 --version 2>&1 | cut -d' ' -f2); set PYTHON=/path/to/python$PYTHON_NEEDED"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      # Debian keeps these two apart from python3, in a package for each version.
      need_packages "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    say "making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || fail VENV_FAILED "$python could not make $VENV"
  fi
  wanted=$( { "$VENV/bin/python" --version; sha256sum pyproject.toml constraints.txt; } | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$STAMP" 2>/dev/null || true)" != "$wanted" ]; then
    say "installing the project (versions of constraints.txt)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]' \
      || fail PIP_FAILED "pip could not install the project; see its message above"
    printf '%s\n' "$wanted" >"$STAMP"
  fi
}

case "${1:-}" in
  demo) need_packages "${DEMO_PACKAGES[@]}" ;;
  test)
    need_packages "${DEMO_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
    scripts/viewer.sh
    ;;
  lint) ;;
  *) fail USAGE "scripts/setup.sh demo|test|lint" ;;
esac
need_venv
