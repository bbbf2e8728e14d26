#!/usr/bin/env bash
# Slurm epilog: remove the job's files for llem-exporter, and write the joules of the job's GPUs to a file.
#
#   slurm.conf: Epilog=/etc/slurm/epilog.d/50-llem.sh
#
# A failing epilog drains the node, so this one logs its errors and exits with status 0. It does not wait for the
# joules: llem-integrate runs in the background, as an unprivileged user and with a time limit, once the last
# samples are stored. It writes LLEM_SPOOL_DIR/JOB.NODE.json, or JOB.NODE.error with the reason for a failure. If
# several jobs share a GPU, each of them is given all of its joules.
#
# Settings, from /etc/llem-exporter/slurm.env or the environment:
#   LLEM_JOBS_DIR [/run/llem-jobs]   LLEM_SPOOL_DIR [/var/spool/llem]   LLEM_SOURCE [http://127.0.0.1:9955]
#   LLEM_INTEGRATE [/opt/llem/bin/llem-integrate]   LLEM_RUN_AS [nobody]
#   LLEM_SETTLE_S [30]   how long to wait for the last samples: two scrape intervals, or 1 for an exporter
#   LLEM_TIMEOUT_S [120]
# For jobs longer than 15 minutes, LLEM_SOURCE must be a Prometheus: the exporter keeps only its last 15 minutes.
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

# Run llem-integrate without root's privileges, because it parses data from the network.
unprivileged() {
    if ((EUID)); then
        "$@"
    else
        setpriv --reuid "$run_as" --regid "$(id -g "$run_as")" --clear-groups --no-new-privs -- "$@"
    fi
}

# failed NAME MESSAGE: log a message, and write it to NAME.error.
failed() {
    log "${*:2}"
    printf '%s\n' "${*:2}" >"$spool_dir/$1.error"
}

# integrate_job START,END UUIDS: write the result atomically. Statuses 3 (no joules) and 4 (coverage too low) also
# have a result, which contains the reason.
integrate_job() {
    local name status complaint
    name=$SLURM_JOB_ID.${SLURMD_NODENAME:-$(hostname -s)}
    sleep "$settle_s"
    complaint=$(
        # Every user can read command lines, and the URL may contain a password.
        export LLEM_INTEGRATE_SOURCE=$source_url
        unprivileged timeout --kill-after=5 "$timeout_s" "$integrate" --window "$1" --gpus "$2" \
            --format json --no-progress 2>&1 >"$spool_dir/.$name.json"
    )
    status=$?
    if [[ $status =~ ^[034]$ ]]; then
        mv -f -- "$spool_dir/.$name.json" "$spool_dir/$name.json"
        return
    fi
    rm -f -- "$spool_dir/.$name.json"
    case $status in
        124 | 137) failed "$name" "$integrate took longer than $timeout_s s" ;;
        *) failed "$name" "$integrate exited with $status: ${complaint##*$'\n'}" ;;
    esac
}

main() {
    local file uuid end_s start_s='' uuids=''
    local -a files
    [[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]] || { log "SLURM_JOB_ID is not a number"; return; }
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
    rm -f -- "${files[@]}" || log "cannot write to $jobs_dir: the exporter still shows this job"
    [[ $start_s =~ ^[0-9]+$ ]] || { log "its start is neither in SLURM_JOB_START_TIME nor in its files"; return; }
    # A window must not be empty.
    ((end_s > start_s)) || end_s=$((start_s + 1))
    mkdir -p -- "$spool_dir" || { log "cannot create $spool_dir"; return; }
    # In a new session without the epilog's open files, slurmd neither waits for it nor kills it. --wait waits only
    # until it runs in that session.
    setsid --wait "$BASH" "${BASH_SOURCE[0]}" integrate "$start_s,$end_s" "$uuids" </dev/null >/dev/null 2>&1
}

if [[ ${1:-} == integrate ]]; then
    integrate_job "$2" "$3" &
else
    main
fi
exit 0
