# shellcheck shell=sh
# Read by the shell scripts whose steps take long. Stopping the script also stops its step, which runs
# in the background, because a shell handles signals only while it waits.
step=
trap '[ -z "$step" ] || kill "$step" || :; wait; exit 130' INT
trap '[ -z "$step" ] || kill "$step" || :; wait; exit 143' TERM
trap '[ -z "$step" ] || kill "$step" || :; wait; exit 129' HUP

# Run a command to its end; return its status.
run_step() {
    "$@" &
    step=$!
    wait "$step"
}
