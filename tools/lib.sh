# Sourced by tools/run and tools/test: makes .venv in the checkout and installs r1lit, once per pyproject.toml.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "r1lit needs Python 3.11 or newer, and none was found on PATH (python3 is: $(python3 --version 2>&1 || true))." >&2
    echo "Install one, or name it: PYTHON=/path/to/python3.12 tools/run" >&2
    exit 1
}

# install EXTRA: '' for what a run needs, 'test' for the test suite's tools as well.
install() {
    local extra=$1 python target stamp
    target="$root${extra:+[$extra]}"
    stamp="$venv/.r1lit-${extra:-run}"
    # What the tests need includes what a run needs.
    if cmp -s "$stamp" "$root/pyproject.toml" || { [ -z "$extra" ] && cmp -s "$venv/.r1lit-test" "$root/pyproject.toml"; }; then
        return
    fi
    # Two first runs at once would install over each other.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$root/.install.lock"
        flock 9
    fi
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "r1lit: making $venv with $("$python" --version)" >&2
        if ! "$python" -m venv --clear "$venv" >&2; then
            echo "r1lit needs the venv and pip modules of $python (on Debian: apt install python3-venv)." >&2
            exit 1
        fi
    fi
    echo "r1lit: installing${extra:+ with the $extra extra} (a few minutes the first time)" >&2
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$target" >&2; then
        echo "r1lit: pip could not install the packages of pyproject.toml; its message above says which, and why." >&2
        exit 1
    fi
    cp "$root/pyproject.toml" "$stamp"
    exec 9>&-
}
