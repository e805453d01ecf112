#!/bin/sh
# Installs the bundle in which this file lies, on a machine without internet. Nothing is changed before all of the bundle
# was checked; a second run changes nothing; a run that was cut off is finished by another one.
#   usage: install.sh [--start]      install or upgrade; --start also has systemd start it, now and at each boot
#          install.sh --check        check the bundle and this machine, change nothing
#          install.sh --rollback     back to the version before
#          install.sh --uninstall    remove the programs; data and configuration stay
#   --root DIR      everything below DIR, for a trial: no user is made, systemd is not told, root is not needed
#   --python FILE   the interpreter, where it is not the system's
set -eu
umask 022
export LC_ALL=C.UTF-8
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

say() { printf 'install: %s\n' "$*"; }
fail() {
  printf 'error %s: %s\n' "$1" "$2" >&2
  exit 1
}
usage() { fail USAGE "install.sh [--start | --check | --rollback | --uninstall] [--root DIR] [--python FILE]"; }

# The value of a key in BUNDLE. It is read, never run.
fact() { sed -n "s/^$1=//p" "$here/BUNDLE"; }

# --- the bundle: every file as it was packed, none missing, none besides

check_bundle() {
  [ -f "$here/SHA256SUMS" ] || fail BUNDLE_INCOMPLETE "SHA256SUMS is missing; unpack the whole tar"
  cd "$here"
  if grep -Evq '^[0-9a-f]{64}  [A-Za-z0-9_][A-Za-z0-9_.+/-]*$' SHA256SUMS || grep -Fq '..' SHA256SUMS; then
    fail BUNDLE_CHANGED "SHA256SUMS is not as it was made"
  fi
  odd=$(find . ! -type d ! -type f | head -n 1)
  [ -z "$odd" ] || fail BUNDLE_EXTRA "$odd is no file: nothing but files was packed"
  found=$(find . -type f ! -path ./SHA256SUMS | sed 's|^\./||' | sort)
  listed=$(cut -c67- SHA256SUMS | sort)
  for name in $listed; do
    [ -f "$name" ] || fail BUNDLE_INCOMPLETE "$name is missing"
  done
  if [ "$found" != "$listed" ]; then
    fail BUNDLE_EXTRA "what was never packed lies in it: $(printf '%s\n' "$found" | grep -Fxv -e "$listed" | head -n 1)"
  fi
  sha256sum --check --strict --quiet SHA256SUMS >/dev/null 2>&1 \
    || fail BUNDLE_CHANGED "$(sha256sum --check SHA256SUMS 2>/dev/null | sed -n 's/: FAILED.*//p' | head -n 1) is not as it was packed"
  for key in name version python machine glibc kilobytes; do
    [ -n "$(fact $key)" ] || fail BUNDLE_CHANGED "BUNDLE does not say '$key'"
  done
}

# --- this machine

# What an interpreter is: its version, then what it lacks.
probe='import sys
print("%d.%d" % sys.version_info[:2])
try:
    import ctypes, sqlite3, ssl, venv
    ctypes.CDLL("libstdc++.so.6")
except ImportError: print("PYTHON")
except OSError: print("LIBRARY")'

# The first interpreter of the version that the wheels were made for.
find_python() {
  wanted=$(fact python)
  for candidate in ${python_asked:-"/usr/bin/python$wanted" "python$wanted" python3}; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    said=$("$path" -I -c "$probe" 2>/dev/null) || continue
    case $said in
      "$wanted") python=$path && return 0 ;;
      "$wanted"*PYTHON) fail PYTHON_INCOMPLETE "$path lacks a part of the standard library; it is in the Debian package python$wanted" ;;
      "$wanted"*LIBRARY) fail LIBRARY_MISSING "libstdc++.so.6 is missing; it is in the Debian package libstdc++6" ;;
    esac
  done
  fail PYTHON_MISSING "this bundle is for Python $wanted (Debian package python$wanted), and none was found; --python FILE names it"
}

check_machine() {
  machine=$(uname -m)
  [ "$(uname -s) $machine" = "Linux $(fact machine)" ] \
    || fail WRONG_PLATFORM "this bundle is for Linux $(fact machine), this is $(uname -s) $machine"
  have=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  need=$(fact glibc)
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n 1)" = "$need" ] \
    || fail WRONG_PLATFORM "glibc $need or newer is needed, this is ${have:-another C library}"
  find_python
  # The user zhiying, who is not there yet, is nobody in particular.
  if [ -z "$root" ] && [ "$(id -u)" -eq 0 ]; then
    runuser -u nobody -- "$python" -I -c '' 2>/dev/null \
      || fail PYTHON_PRIVATE "$python may not be run by everybody; --python FILE names another"
  fi
  complete "$version" && return 0
  above=$opt
  while [ ! -d "$above" ]; do above=$(dirname "$above"); done
  free=$(df -Pk "$above" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$(fact kilobytes)" ] \
    || fail NO_SPACE "$(($(fact kilobytes) / 1024)) MiB are needed below $opt, $((free / 1024)) MiB are free"
}

# --- the programs: /opt/zhiying/VERSION is a venv; `current` and `previous` point to two of them

# Is this version installed to its end? The marker is written last, when all before it is on the disk.
complete() { [ -f "$opt/$1/bundle/COMPLETE" ]; }

# One run at a time. What a killed run left running, like pip, holds the lock until it ends.
lock() {
  mkdir -p "$opt"
  exec 9>"$opt/.lock"
  flock -n 9 || fail BUSY "another install.sh, or what is left of one, is at work in $opt"
  # Half a removal, or a folder that never got its name.
  rm -rf "$opt"/.new-* "$opt"/.gone-*
}

# Takes a version's folder away: renamed first, so that what a crash leaves of it is nobody's version.
remove() {
  mv -T "$opt/$1" "$opt/.gone-$1"
  rm -rf "$opt/.gone-$1"
}

# Points a link to a version, in one step.
point() {
  ln -sfn "$2" "$opt/.new-$1"
  mv -T "$opt/.new-$1" "$opt/$1"
}

pointed() { readlink "$opt/$1" 2>/dev/null || true; }

# pip runs out of its own wheel. No setting of this machine reaches it, least of all an index.
pip() {
  set -- "$here"/wheels/pip-*.whl "$@"
  wheel=$1
  shift
  env -i PATH="$PATH" HOME=/nonexistent LC_ALL=C.UTF-8 PIP_CONFIG_FILE=/dev/null "$opt/$version/bin/python" -I \
    "$wheel/pip" --disable-pip-version-check --no-input --no-cache-dir --quiet "$@"
}

build() {
  sums=$(sha256sum <"$here/SHA256SUMS" | cut -d' ' -f1)
  if complete "$version"; then
    [ "$(cat "$opt/$version/bundle/COMPLETE")" = "$sums" ] && return 0
    fail VERSION_TAKEN "$opt/$version was installed from another bundle of the same version; make this one with a --label"
  fi
  if [ -e "$opt/$version" ]; then
    # BUNDLE is in such a folder from its first moment: what has none is not ours to remove.
    [ -f "$opt/$version/bundle/BUNDLE" ] || fail FOLDER_FOREIGN "$opt/$version is there, and not by this installer"
    say "removing what a run that was cut off has left of $version"
    remove "$version"
  fi
  say "installing $version into $opt/$version with $python"
  mkdir -p "$opt/.new-$version/bundle"
  (cd "$here" && cp BUNDLE LICENSE SHA256SUMS install.sh requirements.txt sbom.cdx.json zhiying.service zhiying.toml \
    "$opt/.new-$version/bundle")
  mv -T "$opt/.new-$version" "$opt/$version"
  "$python" -I -m venv --without-pip "$opt/$version" || fail VENV_FAILED "$python could not make a venv"
  # pip hashes each wheel again as it reads it: what was exchanged since the check is not installed.
  pip install --no-index --find-links "$here/wheels" --require-hashes --only-binary=:all: -r "$here/requirements.txt" \
    || fail PIP_FAILED "pip could not install the bundle's wheels; see its message above"
  "$opt/$version/bin/zhiying" --help >/dev/null || fail PROGRAM_BROKEN "the installed zhiying does not start here"
  sync -f "$opt/$version"
  printf '%s\n' "$sums" >"$opt/$version/bundle/.COMPLETE"
  mv -T "$opt/$version/bundle/.COMPLETE" "$opt/$version/bundle/COMPLETE"
}

# `previous` first: cut off between the two, it is `current`, and another run does both again.
switch_to() {
  now=$(pointed current)
  [ "$now" = "$1" ] && return 0
  if [ -n "$now" ] && complete "$now"; then point previous "$now"; fi
  point current "$1"
  sync -f "$opt"
}

# --- what stands around them

put_user() {
  [ -z "$root" ] || return 0
  getent passwd zhiying >/dev/null && return 0
  say "making the user zhiying"
  useradd --system --user-group --home-dir "$data" --no-create-home --shell /usr/sbin/nologin zhiying \
    || fail USER_FAILED "useradd could not make the user zhiying"
}

# Only where there is none, not even a broken link: the file is the site's.
put_config() {
  mkdir -p "$etc"
  if [ ! -e "$etc/zhiying.toml" ] && [ ! -L "$etc/zhiying.toml" ]; then
    say "writing $etc/zhiying.toml; it listens on loopback and talks to nobody until you change it"
    sed "s|^folder = .*|folder = \"$data\"|" "$here/zhiying.toml" >"$etc/.zhiying.toml"
    if [ -z "$root" ]; then chown root:zhiying "$etc" "$etc/.zhiying.toml"; fi
    chmod 0750 "$etc"
    chmod 0640 "$etc/.zhiying.toml"
    ln -T "$etc/.zhiying.toml" "$etc/zhiying.toml" || fail CONFIG_FAILED "$etc/zhiying.toml appeared meanwhile"
  fi
  rm -f "$etc/.zhiying.toml"
  if [ ! -d "$data" ]; then
    mkdir -p "$(dirname "$data")"
    mkdir -m 0700 "$data"
  fi
  # Again where a run was cut off in between.
  if [ -z "$root" ] && [ -z "$(ls -A "$data")" ]; then chown zhiying:zhiying "$data"; fi
}

# The unit belongs to the program; what a site changes goes into zhiying.service.d.
put_unit() {
  mkdir -p "$units"
  if ! cmp -s "$opt/current/bundle/zhiying.service" "$units/zhiying.service"; then
    cp "$opt/current/bundle/zhiying.service" "$units/.zhiying.service"
    mv -T "$units/.zhiying.service" "$units/zhiying.service"
  fi
  # Each time: a run may have been cut off before this line.
  if systemd_runs; then systemctl daemon-reload; fi
}

systemd_runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

active() { systemd_runs && systemctl is-active --quiet zhiying; }

# As the service's own user: what only root may read is not readable to the service.
as_service() {
  if [ -z "$root" ]; then runuser -u zhiying -- "$@"; else "$@"; fi
}

doctor() {
  say "zhiying doctor --config $etc/zhiying.toml"
  (cd "$data" && as_service "$opt/current/bin/zhiying" doctor --config "$etc/zhiying.toml" 9>&-) \
    || fail DOCTOR_FAILED "$(pointed current) is installed, but its doctor found what stands in the way; see above"
}

# --- what may be asked for

do_install() {
  check_bundle
  version=$(fact version)
  check_machine
  [ "$what" != start ] || systemd_runs || fail NO_SYSTEMD "systemd does not run here; install without --start"
  if [ "$what" = check ]; then
    say "bundle and machine are as they must be for $version; nothing was changed"
    return 0
  fi
  lock
  put_user
  build
  put_config
  switch_to "$version"
  put_unit
  say "$version is in use; the version before: $(p=$(pointed previous); echo "${p:-none}")"
  doctor
  if [ "$what" = start ]; then
    systemctl enable --now zhiying || fail START_FAILED "systemctl could not start it; see: journalctl -u zhiying"
  elif active; then
    say "the version before is still running; now: systemctl restart zhiying"
  else
    say "nothing was started; when $etc/zhiying.toml is as you want it: systemctl enable --now zhiying"
  fi
}

do_rollback() {
  [ -d "$opt" ] || fail NOT_INSTALLED "there is nothing in $opt"
  lock
  before=$(pointed previous)
  if [ -z "$before" ] || ! complete "$before"; then fail NO_PREVIOUS "there is no version before $(pointed current)"; fi
  point current "$before"
  put_unit
  # Last: cut off before it, another run does the same again. Without it, twice is not forward.
  rm -f "$opt/previous"
  say "$before is in use again"
  doctor
  if active; then say "the other version is still running; now: systemctl restart zhiying"; fi
}

# Where the configuration says that the data are; the installed Python reads it, as it is TOML.
data_of_site() {
  for one in "$opt/current/bin/python" python3; do
    "$one" -I -c 'import sys, tomllib
print(tomllib.load(open(sys.argv[1], "rb"))["data"]["folder"])' "$etc/zhiying.toml" 2>/dev/null && return 0
  done
  echo "$data"
}

do_uninstall() {
  [ -d "$opt" ] || fail NOT_INSTALLED "there is nothing in $opt"
  lock
  kept=$(data_of_site)
  if systemd_runs && [ -f "$units/zhiying.service" ]; then systemctl disable --now zhiying; fi
  rm -f "$units/zhiying.service" "$opt/current" "$opt/previous"
  if systemd_runs; then systemctl daemon-reload; fi
  for folder in "$opt"/*/; do
    # Only what this installer made: somebody may keep other things here, even data.
    if [ -f "$folder/bundle/BUNDLE" ]; then remove "$(basename "$folder")"; fi
  done
  rm -f "$opt/.lock"
  rmdir "$opt" 2>/dev/null || say "what is left in $opt is not ours: $(ls -A "$opt" | head -n 3 | tr '\n' ' ')"
  say "the programs are gone. Kept: data, log and keys in $kept; configuration in $etc$([ -n "$root" ] || echo '; the user zhiying')"
}

what=install root='' python_asked=''
while [ $# -gt 0 ]; do
  case "$1" in
    --start | --check | --rollback | --uninstall)
      [ "$what" = install ] || usage
      what=${1#--}
      ;;
    --root | --python)
      [ $# -ge 2 ] && [ -n "$2" ] || usage
      if [ "$1" = --root ]; then root=$2; else python_asked=$2; fi
      shift
      ;;
    *) usage ;;
  esac
  shift
done
if [ -n "$root" ]; then
  [ -d "$root" ] || fail ROOT_MISSING "there is no folder $root"
  [ "$what" != start ] || usage
  root=$(CDPATH='' cd -- "$root" && pwd)
  case "$root" in *[!A-Za-z0-9_.+/-]*) fail ROOT_INVALID "the path of --root may have letters, digits and _.+/- only" ;; esac
elif [ "$what" != check ] && [ "$(id -u)" -ne 0 ]; then
  fail NOT_ROOT "run it as root, or try it with --root DIR"
fi
opt=$root/opt/zhiying etc=$root/etc/zhiying data=$root/var/lib/zhiying units=$root/etc/systemd/system

case "$what" in
  rollback) do_rollback ;;
  uninstall) do_uninstall ;;
  *) do_install ;;
esac
