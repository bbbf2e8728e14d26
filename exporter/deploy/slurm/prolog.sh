#!/usr/bin/env bash
# Slurm prolog: write the files from which llem-exporter (--jobs.dir) knows the job of each GPU.
#
#   slurm.conf: Prolog=/etc/slurm/prolog.d/50-llem.sh   PrologFlags=Alloc
#
# A failing prolog drains the node, so this one logs its errors and exits with status 0. SLURM_JOB_GPUS contains
# minor numbers. Files are named by UUID, because indices change with drivers and boots. Jobs on MIG slices are
# not published, because a slice has no minor number.
#
# Settings, from /etc/llem-exporter/slurm.env or the environment:
#   LLEM_JOBS_DIR [/run/llem-jobs]   LLEM_PROC_GPUS [/proc/driver/nvidia/gpus]   LLEM_PATIENCE_S [5]
set -u
umask 022
export LC_ALL=C
readonly settings=/etc/llem-exporter/slurm.env
if [[ -r $settings ]]; then
    # shellcheck disable=SC1090
    source "$settings"
fi
jobs_dir=${LLEM_JOBS_DIR:-/run/llem-jobs}
proc_gpus=${LLEM_PROC_GPUS:-/proc/driver/nvidia/gpus}
patience_s=${LLEM_PATIENCE_S:-5}

log() {
    printf 'llem prolog: job %s: %s\n' "${SLURM_JOB_ID:-?}" "$*" >&2
    logger --tag llem-prolog -- "job ${SLURM_JOB_ID:-?}: $*" 2>/dev/null
}

# numbers LIST: print the numbers of a list such as 0,2-3, one per line.
numbers() {
    local part
    local -a parts
    IFS=, read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        if [[ $part =~ ^([0-9]{1,4})(-([0-9]{1,4}))?$ ]]; then
            seq "$((10#${BASH_REMATCH[1]}))" "$((10#${BASH_REMATCH[3]:-${BASH_REMATCH[1]}}))"
        else
            log "SLURM_JOB_GPUS has ${part@Q}, which is not a GPU number"
        fi
    done
}

# Print a line "MINOR UUID" for each GPU. The driver's files are faster than a call to NVML. The time limit is for
# a driver that hangs.
minors_and_uuids() {
    # shellcheck disable=SC2016
    timeout --kill-after=1 "$patience_s" awk '
        FNR == 1 { uuid = "" }
        /^GPU UUID:/ { uuid = $3 }
        /^Device Minor:/ && $3 ~ /^[0-9]+$/ && uuid ~ /^GPU-[0-9a-f-]+$/ { print $3, uuid }
    ' "$proc_gpus"/*/information
}

write_file() {
    local temporary=$jobs_dir/.$1.$SLURM_JOB_ID
    # The rename is atomic: the exporter may read the file at any moment.
    printf '%s=%s\n' job_id "$SLURM_JOB_ID" user "${SLURM_JOB_USER:-}" account "${SLURM_JOB_ACCOUNT:-}" \
        partition "${SLURM_JOB_PARTITION:-}" start "$(date +%s)" >"$temporary" &&
        mv -f -- "$temporary" "$jobs_dir/$1.$SLURM_JOB_ID"
}

main() {
    local minor uuid
    local -A uuid_of=()
    [[ -n ${SLURM_JOB_GPUS:-} ]] || return 0
    [[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]] || { log "SLURM_JOB_ID is not a number"; return; }
    mkdir -p -- "$jobs_dir" || { log "cannot create $jobs_dir"; return; }
    while read -r minor uuid; do
        uuid_of[$minor]=$uuid
    done < <(minors_and_uuids)
    for minor in $(numbers "$SLURM_JOB_GPUS"); do
        if [[ -z ${uuid_of[$minor]:-} ]]; then
            log "$proc_gpus has no GPU with minor number $minor"
        elif ! write_file "${uuid_of[$minor]}"; then
            log "cannot write to $jobs_dir"
        fi
    done
}

main
exit 0
