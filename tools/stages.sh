# Sourced by the scripts that run stages: each stage is timed, a failed one does not keep the next from running, and
# the end says which failed.
stages_failed=""
stages_times=""

# stage NAME COMMAND...
stage() {
	local name=$1 begin=$SECONDS status=0
	shift
	printf '\n== %s\n' "$name"
	"$@" </dev/null || status=$?
	local took=$((SECONDS - begin))
	stages_times="$stages_times$(printf '%-12s %4d s  %s' "$name" "$took" "$([ $status = 0 ] && echo ok || echo FAILED)")"$'\n'
	[ $status = 0 ] || stages_failed="$stages_failed $name"
	printf '== %s: %s in %d s\n' "$name" "$([ $status = 0 ] && echo ok || echo "FAILED (exit $status)")" "$took"
}

# stages_end prints the times; it fails if a stage did.
stages_end() {
	printf '\n%s%-12s %4d s\n' "$stages_times" total "$SECONDS"
	[ -z "$stages_failed" ] || { echo "FAILED:$stages_failed"; return 1; }
}
