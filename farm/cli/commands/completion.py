"""`farm completion`: the script that makes a shell complete commands, options, jobs and losses."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
    Examples:
      farm completion bash >> ~/.bashrc
      farm completion zsh >> ~/.zshrc
      farm completion fish > ~/.config/fish/completions/farm.fish
    """
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script."""
    script = get_completion_class(shell)
    assert script is not None, "click knows every shell of the choice"
    click.echo(script(ctx.find_root().command, {}, "farm", "_FARM_COMPLETE").source())
