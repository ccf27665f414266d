/** `completion bash|zsh|fish`: scripts that complete commands and, by asking the daemon, the names of domains and devices. */
import { Argument, type Command } from "commander";
import { ok } from "../../../model/result.ts";
import { type Context, common } from "../context.ts";
import { type Done, EXIT } from "../io.ts";

/** What may follow a command: fixed words, or names that the daemon knows. */
type Place = { readonly words: readonly string[]; readonly names: readonly ("domains" | "devices")[] };
type Spec = { readonly name: string; readonly about: string; readonly options: readonly string[]; readonly places: readonly Place[] };

const specsOf = (program: Command): readonly Spec[] =>
  program.commands.map((command) => ({
    name: command.name(),
    about: command.description(),
    options: command.options.flatMap(({ long }) => (long == null ? [] : [long])),
    places: command.registeredArguments.map((argument) => {
      const name = argument.name();
      return {
        words: argument.argChoices ?? (command.name() === "approve" && name === "DEVICE" ? ["mass-detach"] : []),
        names: [...(/DEVICE/.test(name) ? (["devices"] as const) : []), ...(/DOMAIN/.test(name) ? (["domains"] as const) : [])],
      };
    }),
  }));

const words = (place: Place | undefined): string => (place?.words ?? []).join(" ");
const names = (place: Place | undefined): string => (place?.names ?? []).join(" ");
/** For single quotes of a shell. */
const quoted = (text: string): string => text.replaceAll("'", "'\\''");

/** Names are read line by line and quoted: whatever a domain is called, no shell runs it. */
const bash = (specs: readonly Spec[]): string => `# bash completion for plugherd; put it in /etc/bash_completion.d or source it
_plugherd_names() {
  case "$1" in
    domains) plugherd get domains -o name 2>/dev/null ;;
    devices) plugherd get devices -o name 2>/dev/null | sed 's|^.*/||' | sort -u ;;
  esac
}
_plugherd() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" place=$((COMP_CWORD - 2)) words="" names="" options="" name line word
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${specs.map(({ name }) => name).join(" ")}' -- "$cur"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${specs.map(({ name, options, places }) => `    ${name}) options='${options.join(" ")}'; case "$place" in ${places.map((place, i) => `${String(i)}) words='${words(place)}'; names='${names(place)}' ;; `).join("")}esac ;;`).join("\n")}
  esac
  if [[ "$cur" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    return
  fi
  for word in $words; do [[ "$word" == "$cur"* ]] && COMPREPLY+=("$word"); done
  for name in $names; do
    while IFS= read -r line; do
      [[ "$line" == "$cur"* ]] && COMPREPLY+=("$(printf %q "$line")")
    done < <(_plugherd_names "$name")
  done
  [ -z "$words$names" ] && COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F _plugherd plugherd
`;

const zsh = (specs: readonly Spec[]): string => `#compdef plugherd
# zsh completion for plugherd; put it as _plugherd into a directory of $fpath
_plugherd_names() {
  case "$1" in
    domains) compadd -- \${(f)"$(plugherd get domains -o name 2>/dev/null)"} ;;
    devices) compadd -- \${(f)"$(plugherd get devices -o name 2>/dev/null | sed 's|^.*/||' | sort -u)"} ;;
  esac
}
_plugherd() {
  local -a commands
  commands=(
${specs.map(({ name, about }) => `    '${name}:${quoted(about.replaceAll(":", "\\:"))}'`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local place=$((CURRENT - 3)) name
  case "$words[2]" in
${specs
  .map(
    ({ name, options, places }) => `    ${name})
      [[ "$PREFIX" == -* ]] && { compadd -- ${options.join(" ")}; return }
      case "$place" in
${places.map((place, i) => `        ${String(i)}) ${place.words.length > 0 ? `compadd -- ${words(place)}; ` : ""}${place.names.map((kind) => `_plugherd_names ${kind}; `).join("")}${place.words.length + place.names.length === 0 ? "_files " : ""};;`).join("\n")}
        *) _files ;;
      esac ;;`,
  )
  .join("\n")}
  esac
}
compdef _plugherd plugherd
`;

const FISH_NAMES = {
  domains: "(plugherd get domains -o name 2>/dev/null)",
  devices: "(plugherd get devices -o name 2>/dev/null | string replace -r '^.*/' '' | sort -u)",
} as const;
const fish = (specs: readonly Spec[]): string =>
  [
    "# fish completion for plugherd; put it into ~/.config/fish/completions/plugherd.fish",
    ...specs.flatMap(({ name, about, options, places }) => {
      const within = `__fish_seen_subcommand_from ${name}`;
      return [
        `complete -c plugherd -n __fish_use_subcommand -f -a ${name} -d '${quoted(about)}'`,
        ...options.map((option) => `complete -c plugherd -n '${within}' -l ${option.slice(2)}`),
        ...[...new Set(places.flatMap((place) => place.words))].map((choice) => `complete -c plugherd -n '${within}' -f -a ${choice}`),
        ...[...new Set(places.flatMap((place) => place.names))].map(
          (kind) => `complete -c plugherd -n '${within}' -f -a "${FISH_NAMES[kind]}"`,
        ),
      ];
    }),
    "",
  ].join("\n");

const SHELLS: Readonly<Record<string, (specs: readonly Spec[]) => string>> = { bash, zsh, fish };

export function addCompletion(program: Command, context: Context): void {
  const { io, does } = context;
  common(program.command("completion"), context)
    .description("print a completion script for a shell")
    .addArgument(new Argument("<shell>", "which shell").choices(Object.keys(SHELLS)))
    .action(
      does((shell: string): Promise<Done> => {
        io.stdout.write(SHELLS[shell]?.(specsOf(program)) ?? "");
        return Promise.resolve(ok(EXIT.ok));
      }),
    );
}
