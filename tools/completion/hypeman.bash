# SPDX-License-Identifier: Apache-2.0
# bash completion for hypeman. Verbs and flags are read from the program's own help, so they cannot
# drift apart; names are asked of the daemon.
# shellcheck shell=bash disable=SC2207 # every candidate is one word without blanks

_hypeman_verbs() { # [parent verb]
	hypeman "$@" help 2>/dev/null | sed -n 's/^  \([a-z]\{2,\}\) .*/\1/p'
}

_hypeman_flags() { # verb...
	hypeman "$@" --help 2>/dev/null | sed -n 's/^  [- ][a-zA-Z ][, ] \(--[a-z-]*\).*/\1/p'
}

_hypeman() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local where=() verb=() words i=1

	COMPREPLY=()
	while [[ $i -lt $COMP_CWORD ]]; do
		case ${COMP_WORDS[i]} in
		--base-url | --socket)
			# bash splits a URL at its colons
			where+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}")
			i=$((i + 2))
			while [[ ${COMP_WORDS[i]} == : && $i -lt $COMP_CWORD ]]; do
				where[-1]+=:${COMP_WORDS[i + 1]}
				i=$((i + 2))
			done
			;;
		-*) i=$((i + 1)) ;;
		*)
			[[ ${#verb[@]} -eq 0 || (${#verb[@]} -eq 1 && (${verb[0]} == image || ${verb[0]} == update)) ]] && verb+=("${COMP_WORDS[i]}")
			i=$((i + 1))
			;;
		esac
	done

	case $prev in
	--state) words="Created Initializing Running Paused Shutdown Stopped Standby Unknown" ;;
	--format) words="table json jsonl" ;;
	-s | --source) words="app vmm hypeman" ;;
	--hypervisor) words="qemu-microvm qemu cloud-hypervisor firecracker" ;;
	--socket | --secret-file) COMPREPLY=($(compgen -f -- "$cur")) && return ;;
	--data-dir) COMPREPLY=($(compgen -d -- "$cur")) && return ;;
	:) COMPREPLY=($(compgen -d -- "$cur")) && return ;; # behind dir: and oci:
	esac
	if [[ -n ${words-} ]]; then
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	elif [[ $cur == -* && ${#verb[@]} -gt 0 ]]; then
		COMPREPLY=($(compgen -W "$(_hypeman_flags "${verb[@]}")" -- "$cur"))
	else
		case "${verb[*]}" in
		"") words=$(_hypeman_verbs) ;;
		image | update) words=$(_hypeman_verbs "${verb[@]}") ;;
		exec | fork | inspect | logs | restore | rm | standby | start | stats | stop | "update network" | wait)
			words=$(hypeman "${where[@]}" ps -a 2>/dev/null | sed -n '2,$s/ .*//p')
			;;
		run | "image get" | "image delete")
			words=$(hypeman "${where[@]}" image list 2>/dev/null | sed -n '2,$s/ .*//p')
			;;
		cp)
			words=$(hypeman "${where[@]}" ps 2>/dev/null | sed -n '2,$s/ .*/:/p')
			compopt -o nospace 2>/dev/null
			COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur"))
			return
			;;
		"image import") words="dir: oci:" && compopt -o nospace 2>/dev/null ;;
		esac
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	fi
}

complete -F _hypeman hypeman
