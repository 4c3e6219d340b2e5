"""Tab completion of the console scripts in bash, zsh and fish; what completes a word comes from each program.

`eval "$(nca-sweep --shell-completion install=bash)"` installs it for all of them. At each tab the shell asks
the program itself, with the command line in COMP_LINE and the cursor in COMP_POINT, as bash has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from nca.cli.errors import ConfigError, check_output

FLAG = "--shell-completion"  # as Hydra's
QUERY = "query"
PROGRAMS = (
    *("nca-sweep", "nca-train", "nca-studies", "nca-render", "nca-serve", "nca-report", "nca-suggest"),
    *("nca-export", "nca-gallery", "nca-rate", "nca-ratings"),
)
SCRIPTS = {  # = and : separate words in bash, so that a reply is what follows the last of them
    "bash": """_nca_complete() {
    local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
    word="${word##* }"
    COMPREPLY=($(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" "$1" FLAG QUERY 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _nca_complete PROGRAMS""",
    "zsh": """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_nca_complete() {
    local -a found
    found=(${(f)"$(COMP_LINE="$BUFFER" COMP_POINT=$CURSOR $words[1] FLAG QUERY 2>/dev/null)"})
    if (( $#found )); then
        compadd -S '' -- ${(M)found:#*=}
        compadd -- ${found:#*=}
    else
        compset -P '*='
        _files
    fi
}
compdef _nca_complete PROGRAMS""",
    "fish": """function _nca_complete
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT (string length -- $COMP_LINE)
    set -l words (commandline -opc)
    $words[1] FLAG QUERY 2>/dev/null
end
for program in PROGRAMS
    complete -c $program -a '(_nca_complete)'
end""",
}

# From the words before the one to complete, and that one, to what it may become.
Candidates = Callable[[Sequence[str], str], Iterable[str]]


def answer_shell(argv: Sequence[str], candidates: Candidates) -> bool:
    """Print what a shell asks for; return False if the command line is none of a shell's.

    Raises:
        ConfigError: If the shell is unknown.
    """
    if not argv or argv[0] != FLAG:
        return False
    if list(argv[1:]) == [QUERY]:
        line = os.environ.get("COMP_LINE", "")
        point = int(os.environ.get("COMP_POINT", len(line)))
        *words, word = line[:point].split(" ")
        print("\n".join(each for each in candidates(words[1:], word) if each.startswith(word)))
    else:
        shell = " ".join(argv[1:]).removeprefix("install=")
        if shell not in SCRIPTS:
            raise ConfigError(f"{' '.join(argv)}: give {FLAG} install=SHELL, one of {', '.join(SCRIPTS)}")
        script = SCRIPTS[shell].replace("FLAG", FLAG).replace("QUERY", QUERY)
        print(script.replace("PROGRAMS", " ".join(PROGRAMS)))
    check_output()
    return True
