# fish completion for klieg: klieg completion fish | source
complete -c klieg -f -a '(set -l w (commandline -opc); klieg completion words -- $w[2..-1] 2>/dev/null)'
