"""Print a script that completes csa's commands, options, sessions and tools in a shell.

bash: put eval "$(csa completion bash)" into ~/.bashrc.

zsh: put eval "$(csa completion zsh)" into ~/.zshrc, after compinit; or save the script as _csa in a directory of
$fpath.

fish: save the script as ~/.config/fish/completions/csa.fish.

Sessions, by name and by id, and tools are looked up when you press TAB, in the project of the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import shtab

from csa.cli.commands import ABOUT, GROUPS, command_names

SHELLS = ("bash", "zsh", "fish")

# Functions for each shell that call `csa __complete`.
_PREAMBLES = {
    "bash": r"""
_csa_candidates() {  # $1=kind $2=word; a line a candidate, which bash shows and inserts as it is
  local line candidates=() width=0
  while IFS= read -r line; do
    candidates+=("$line")
    line=${line%%$'\t'*}
    (( ${#line} > width )) && width=${#line}
  done < <("${COMP_WORDS[0]/#\~/$HOME}" __complete "$1" "$2" "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
  for line in "${candidates[@]}"; do
    # Descriptions only where a list is shown: the common beginning is all that is inserted then.
    if [[ ${#candidates[@]} -gt 1 && ${COMP_TYPE-9} != 37 && ${COMP_TYPE-9} != 42 && $line == *$'\t'* ]]; then
      printf "%-${width}s  (%s)\n" "${line%%$'\t'*}" "${line#*$'\t'}"
    else
      printf '%s\n' "${line%%$'\t'*}"
    fi
  done
}
_csa_sessions() { _csa_candidates sessions "$1"; }
_csa_tools() { _csa_candidates tools "$1"; }
_csa_tool_lists() { _csa_candidates tool_lists "$1"; }
_csa_statuses() { _csa_candidates statuses "$1"; }
_csa_templates() { _csa_candidates templates "$1"; }
_csa_hosts() { _csa_candidates hosts "$1"; }
_csa_mirrors() { _csa_candidates mirrors "$1"; }
_csa_placements() { _csa_candidates placements "$1"; }
_csa() {  # bash has cut --option=value at the sign, and @last behind its own; what follows expects whole values
  local i word words=()
  for (( i = 0; i <= COMP_CWORD; i++ )); do
    word=${COMP_WORDS[i]#=}
    if [[ $i -gt 0 && ${COMP_WORDS[i-1]} =~ ^=?@$ ]]; then
      words[${#words[@]}-1]+=$word
    elif [[ ${COMP_WORDS[i]} != '=' || $i -eq $COMP_CWORD ]]; then
      words+=("$word")
    fi
  done
  [[ ${words[${#words[@]}-1]} == @* ]] && compopt +o bashdefault 2>/dev/null  # which would make it a name of a host
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$(( ${#words[@]} - 1 ))
  _shtab_csa
}
""",
    "zsh": r"""
_csa_candidates() {
  local line
  local -a found
  for line in "${(@f)$(csa __complete $1 "$PREFIX" "${(@)words[1,CURRENT-1]}" 2>/dev/null)}"; do
    [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}${${(M)line%%$'\t'*}:+:${line#*$'\t'}}")
  done
  _describe -V $1 found
}
_csa_sessions() { _csa_candidates sessions }
_csa_tools() { _csa_candidates tools }
_csa_tool_lists() { _csa_candidates tool_lists }
_csa_statuses() { _csa_candidates statuses }
_csa_templates() { _csa_candidates templates }
_csa_hosts() { _csa_candidates hosts }
_csa_mirrors() { _csa_candidates mirrors }
_csa_placements() { _csa_candidates placements }
""",
    "fish": r"""
function _csa_candidates
    set -l typed (commandline -ct | string replace -r '^--?[a-z-]*=' '')
    # A tab ends each, or fish would show the argument's help for one that has no description.
    csa __complete $argv[1] "$typed" (commandline -opc) 2>/dev/null | string replace -r '^[^\t]*$' '$0\t'
end
""",
}
_CODAS = {
    "bash": "\ncomplete -o bashdefault -o nosort -F _csa csa 2>/dev/null || complete -o bashdefault -F _csa csa\n"
}
_BY_METAVAR = {"SESSION": "sessions", "T,..": "tool_lists", "HOST": "hosts", "H": "mirrors"}
_BY_DESTINATION = {
    "session": "sessions",
    "session_id": "sessions",
    "fork_from": "sessions",
    "tool": "tools",
    "fallback": "tool_lists",
    "release": "placements",
    "status": "statuses",
    "template": "templates",
    "specialist": "templates",
}
_FILES_BY_METAVAR = {"FILE": "file", "DIR": "directory"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def execute(arguments: argparse.Namespace) -> int:
    print(render_script(arguments.shell), end="")
    return 0


def render_script(shell: str) -> str:
    """Return the script for a shell, made from all commands' parsers."""
    parser = _whole_parser()
    for leaf in _leaves(parser):
        for action in leaf._actions:  # noqa: SLF001  # there is no public access to an argument
            if found := _completer(action, shtab.CHOICE_FUNCTIONS):
                action.complete = found  # type: ignore[attr-defined]  # shtab's protocol
            elif shell == "fish" and action.choices and not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
                action.complete = {"fish": " ".join(f"{choice}\\t" for choice in action.choices)}  # type: ignore[attr-defined]  # as above
            if shell == "zsh":
                _spell_for_zsh(action)
    script: str = shtab.complete(parser, shell, preamble=_PREAMBLES[shell])
    if shell == "zsh":
        script = script.replace('"(*)::', '"*:')  # shtab writes it for any number of arguments, but zsh takes one
    return script.rstrip("\n") + "\n" + _CODAS.get(shell, "")


def _spell_for_zsh(action: argparse.Action) -> None:
    """Let zsh complete an option's value after `=` too."""
    if action.nargs == argparse.OPTIONAL and action.option_strings:
        action.nargs = 0  # a value would have to be in the same word, and there is none to offer
    if action.nargs != 0:
        action.option_strings = [f"{name}=" if name.startswith("--") else name for name in action.option_strings]


def _completer(action: argparse.Action, files: Mapping[str, Any]) -> Mapping[str, Any] | None:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = _BY_METAVAR.get(metavar) or _BY_DESTINATION.get(action.dest)
    if kind and action.nargs != 0:
        return {"bash": f"_csa_{kind}", "zsh": f"_csa_{kind}", "fish": f"(_csa_candidates {kind})"}
    found: Mapping[str, Any] | None = files.get(_FILES_BY_METAVAR.get(metavar, ""))
    return found


def _whole_parser() -> argparse.ArgumentParser:
    """Build one parser with all commands, only for this."""
    root = argparse.ArgumentParser(prog="csa", description=ABOUT)
    root.add_argument("-V", "--version", action="version", help="print the version")
    tree = root.add_subparsers()
    groups = {
        name: tree.add_parser(name, help=what, description=what).add_subparsers() for name, what in GROUPS.items()
    }
    leaves: dict[str, argparse.ArgumentParser] = {}
    for name, command in command_names().items():
        *group, leaf = name.split()
        if group and group[0] not in groups:  # a command with members, such as `serve`
            groups[group[0]] = leaves[group[0]].add_subparsers()
        place = groups[group[0]] if group else tree
        leaves[name] = place.add_parser(leaf, help=command.summary, description=command.summary)
        command.configure(leaves[name])
    helped = tree.add_parser("help", help="explain a command", description="explain a command")
    helped.add_argument("-a", "--all", action="store_true", help="list all commands")
    names = [name for name in command_names() if " " not in name]
    helped.add_argument("command", choices=[*names, *GROUPS])
    helped.add_argument("member", nargs="?", choices=names)  # of a group
    return root


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:  # noqa: SLF001  # as above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
            found += [leaf for child in action.choices.values() for leaf in _leaves(child)]
    return found
