# bash completion for klieg: source <(klieg completion bash)
_klieg() {
	local IFS=$'\n' cur line
	cur=${COMP_LINE:0:COMP_POINT}; cur=${cur##*[[:space:]]}; cur=${cur#[\'\"]}
	COMPREPLY=()
	for line in $(klieg completion words -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null); do
		line=${line%%$'\t'*}
		[[ $line == "$cur"* ]] || continue
		[[ $cur == *:* ]] && line=${line#"${cur%:*}:"}  # bash splits words at colons
		COMPREPLY+=("$line")
	done
}
complete -o default -F _klieg klieg
