"""Configs by path, and the shipped ones by name."""

from pathlib import Path

from .._checks import near
from .errors import ConfigError


def shipped() -> dict[str, Path]:
    """The configs that come with the package: name, such as "paper/adam_quadratic", to path."""
    folder = _folder()
    paths = sorted(folder.rglob("*.toml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find_config(text: str) -> Path:
    """The config that a user means: a path, or the name of a shipped one.

    A path that does not exist may end in the name of a shipped one: `configs/adam_quadratic.toml`
    works anywhere.

    **Raises:** `ConfigError` if there is none.
    """
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{text}: is a folder; a config is a TOML file.")
    known = shipped()
    name = path.as_posix().removesuffix(".toml").removeprefix("configs/")
    if name in known:
        return known[name]
    raise ConfigError(
        f"{text}: there is no such file, nor a config of this name.{near(name, known)} "
        "`idemodels list` shows those that there are."
    )


def name_of(path: Path) -> str:
    """A shipped config's name; the stem of any other."""
    by_path = {known.resolve(): name for name, known in shipped().items()}
    return by_path.get(path.resolve(), path.stem)


def _folder() -> Path:
    """Inside the package once installed; beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
