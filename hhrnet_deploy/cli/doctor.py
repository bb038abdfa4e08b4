"""``hhrnet doctor``: what can be built and run on this machine."""

from __future__ import annotations

from hhrnet_deploy.cli import console, options


def doctor(
    as_json: options.AsJson = False,
) -> None:
    """Say what can be built and run here, and which one command would add the rest.

    Examples:

      hhrnet doctor

      hhrnet doctor --json
    """
    from hhrnet_deploy.pipeline.doctor import diagnose

    found = diagnose()
    if as_json:
        console.emit_json(found.as_document())
        return
    console.out.print(f"Python {found.python} on {found.system}, {found.cores} cores, {found.memory_gib} GiB")
    for gpu in found.gpus:
        console.out.print(f"{gpu.name}, sm_{gpu.compute_capability}, {gpu.memory_mib} MiB, driver {gpu.driver}")
    console.table(
        ["ability", "works", "detail", "to add it"],
        [[a.name, "yes" if a.works else "no", a.detail, a.remedy or ""] for a in found.abilities],
    )
    versions = {**found.packages, **found.compilers}
    console.table(["package", "version"], [[name, text or "-"] for name, text in versions.items()])
