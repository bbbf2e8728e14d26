#!/usr/bin/env bash
# Slurm's prolog: tell llem-exporter (--jobs.dir) whose job runs on which GPU.
#
#   slurm.conf: Prolog=/etc/slurm/prolog.d/50-llem.sh   PrologFlags=Alloc
#
# A prolog that fails drains its node, so this one never does: it logs and exits 0. SLURM_JOB_GPUS holds the
# GPUs' minor numbers; a file is named by UUID, for indices change with a driver and a boot. MIG slices have no
# minor number of their own: their jobs are not told.
#
# Settings: /etc/llem-exporter/slurm.env, or the environment.
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

# "0,2-3" as a word for each number.
numbers() {
    local part
    local -a parts
    IFS=, read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        if [[ $part =~ ^([0-9]{1,4})(-([0-9]{1,4}))?$ ]]; then
            seq "$((10#${BASH_REMATCH[1]}))" "$((10#${BASH_REMATCH[3]:-${BASH_REMATCH[1]}}))"
        else
            log "SLURM_JOB_GPUS has ${part@Q}, which is no number of a GPU"
        fi
    done
}

# A line "MINOR UUID" for each GPU, from the driver's own files: no call into NVML, which could be slow. A driver
# that hangs may hang here too, and only so long.
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
    [[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]] || { log "SLURM_JOB_ID is no number"; return; }
    mkdir -p -- "$jobs_dir" || { log "$jobs_dir cannot be made"; return; }
    while read -r minor uuid; do
        uuid_of[$minor]=$uuid
    done < <(minors_and_uuids)
    for minor in $(numbers "$SLURM_JOB_GPUS"); do
        if [[ -z ${uuid_of[$minor]:-} ]]; then
            log "$proc_gpus has no GPU of minor number $minor"
        elif ! write_file "${uuid_of[$minor]}"; then
            log "$jobs_dir cannot be written to"
        fi
    done
}

main
exit 0
