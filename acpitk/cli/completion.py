"""`acpitk completion`: the script that teaches a shell acpitk's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print the completion script for SHELL.

    \b
    Examples:
      acpitk completion bash > ~/.local/share/bash-completion/completions/acpitk
      acpitk completion zsh > ~/.zfunc/_acpitk
      acpitk completion fish > ~/.config/fish/completions/acpitk.fish
    """
    script = get_completion_class(shell)
    assert script is not None, "click knows every shell of the choice"  # noqa: S101
    click.echo(script(context.find_root().command, {}, "acpitk", "_ACPITK_COMPLETE").source())
    return 0
