#!/usr/bin/env bash
# Slurm's epilog: the job's GPUs are free again, and what it used is written to a file.
#
#   slurm.conf: Epilog=/etc/slurm/epilog.d/50-llem.sh
#
# An epilog that fails drains its node, so this one never does: it logs and exits 0. It does not hold the node
# either: llem-integrate runs by itself, as a user without rights, bounded in time, once the last samples are
# in the store. Its JSON is LLEM_SPOOL_DIR/JOB.NODE.json, or JOB.NODE.error says why there is none. A GPU that several
# jobs share has one meter: each of them gets its joules in whole.
#
# Settings: /etc/llem-exporter/slurm.env, or the environment.
#   LLEM_JOBS_DIR [/run/llem-jobs]   LLEM_SPOOL_DIR [/var/spool/llem]   LLEM_SOURCE [http://127.0.0.1:9955]
#   LLEM_INTEGRATE [/opt/llem/bin/llem-integrate]   LLEM_RUN_AS [nobody]
#   LLEM_SETTLE_S [30]   two scrape intervals; with an exporter as the source, 1 is enough
#   LLEM_TIMEOUT_S [120]
# The exporter itself holds its last 15 minutes only: for longer jobs LLEM_SOURCE is a Prometheus.
set -u
umask 022
export LC_ALL=C
readonly settings=/etc/llem-exporter/slurm.env
if [[ -r $settings ]]; then
    # shellcheck disable=SC1090
    source "$settings"
fi
jobs_dir=${LLEM_JOBS_DIR:-/run/llem-jobs}
spool_dir=${LLEM_SPOOL_DIR:-/var/spool/llem}
source_url=${LLEM_SOURCE:-http://127.0.0.1:9955}
integrate=${LLEM_INTEGRATE:-/opt/llem/bin/llem-integrate}
run_as=${LLEM_RUN_AS:-nobody}
settle_s=${LLEM_SETTLE_S:-30}
timeout_s=${LLEM_TIMEOUT_S:-120}

log() {
    printf 'llem epilog: job %s: %s\n' "${SLURM_JOB_ID:-?}" "$*" >&2
    logger --tag llem-epilog -- "job ${SLURM_JOB_ID:-?}: $*" 2>/dev/null
}

# llem-integrate parses what a network sends: not as root.
unprivileged() {
    if ((EUID)); then
        "$@"
    else
        setpriv --reuid "$run_as" --regid "$(id -g "$run_as")" --clear-groups --no-new-privs -- "$@"
    fi
}

# failed NAME WORDS: they are logged, and lie where the result was to be.
failed() {
    log "${*:2}"
    printf '%s\n' "${*:2}" >"$spool_dir/$1.error"
}

# integrate_job START,END UUIDS: the result appears whole or not at all. With status 3 (no joules) and 4 (not covered
# enough) there is one, and it says so itself.
integrate_job() {
    local name status complaint
    name=$SLURM_JOB_ID.${SLURMD_NODENAME:-$(hostname -s)}
    sleep "$settle_s"
    complaint=$(
        # Not on the command line, which everybody can read: a password may be in it.
        export LLEM_INTEGRATE_SOURCE=$source_url
        unprivileged timeout --kill-after=5 "$timeout_s" "$integrate" --window "$1" --gpu "$2" \
            --format json --no-progress 2>&1 >"$spool_dir/.$name.json"
    )
    status=$?
    case $status in
        0 | 3 | 4) mv -f -- "$spool_dir/.$name.json" "$spool_dir/$name.json" ;;
        124 | 137) failed "$name" "$integrate took longer than $timeout_s s" ;;
        *) failed "$name" "$integrate exited with $status: ${complaint##*$'\n'}" ;;
    esac
    rm -f -- "$spool_dir/.$name.json"
}

main() {
    local file uuid end_s start_s='' uuids=''
    local -a files
    [[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]] || { log "SLURM_JOB_ID is no number"; return; }
    end_s=$(date +%s)
    shopt -s nullglob
    files=("$jobs_dir"/GPU-*."$SLURM_JOB_ID")
    ((${#files[@]})) || return 0
    start_s=${SLURM_JOB_START_TIME:-}
    for file in "${files[@]}"; do
        uuid=${file##*/}
        uuids+=${uuids:+,}${uuid%."$SLURM_JOB_ID"}
        [[ -n $start_s ]] || start_s=$(sed -n 's/^start=\([0-9]*\)$/\1/p' "$file")
    done
    rm -f -- "${files[@]}" || log "$jobs_dir cannot be written to: its GPUs are still shown as this job's"
    [[ $start_s =~ ^[0-9]+$ ]] || { log "neither SLURM_JOB_START_TIME nor its files say when it began"; return; }
    # A window has a length, however short the job.
    ((end_s > start_s)) || end_s=$((start_s + 1))
    mkdir -p -- "$spool_dir" || { log "$spool_dir cannot be made"; return; }
    # In a session of its own, with nothing of the epilog's held open: slurmd neither waits for it nor ends it. What
    # is waited for here is only that it is in that session.
    setsid --wait "$BASH" "${BASH_SOURCE[0]}" integrate "$start_s,$end_s" "$uuids" </dev/null >/dev/null 2>&1
}

if [[ ${1:-} == integrate ]]; then
    integrate_job "$2" "$3" &
else
    main
fi
exit 0
