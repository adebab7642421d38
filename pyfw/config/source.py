"""Where a daemon's config comes from: its files, or, when they cannot be used, the last good rules that its service keeps."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pyfw.config.engine import check_rules, without_unbindable
from pyfw.config.last_good import LastGoodRules, NoLastGood
from pyfw.config.schema import Config, load_config, mixed_settings, rule_files
from pyfw.config.values import ConfigError, ShadowError
from pyfw.report.degraded import RULES, SHADOW, Degraded
from pyfw.rules.model import Ruleset


class ConfigSource:
    """Reads the config at the start and for each reload.

    say          tells the administrator
    last_good    where rules are kept that came into force; None: nowhere
    degraded     hears of a shadow that cannot be used, and of rules that are not the config's
    """

    def __init__(self, path: Path | str, overrides: Sequence[str], *, skip_unsupported: bool, say: Callable[[str], object],
                 last_good: LastGoodRules | None, degraded: Degraded) -> None:
        self._path = Path(path)
        self._overrides = tuple(overrides)
        self._skip_unsupported = skip_unsupported
        self._say = say
        self._last_good = last_good
        self._degraded = degraded

    @property
    def keeps(self) -> bool:
        """Whether there is a place for the last good rules."""
        return self._last_good is not None

    @property
    def path(self) -> Path:
        return self._path.absolute()

    def load(self, *overrides: str) -> Config:
        """The config of the files.  Raises ConfigError."""
        skipped: list[str] | None = [] if self._skip_unsupported else None
        config = load_config(self._path, (*self._overrides, *overrides), skipped)
        if skipped is not None:
            config = without_unbindable(config, skipped)
        for warning in (*config.notes, *(skipped or ())):
            self._say(f"warning: {warning}")
        return config

    def for_start(self, *, check: bool, may_fall_back: bool) -> Config:
        """The config to start with, without its shadow if that is bad; `check`: its rules can be compiled.

        Raises ConfigError: there is none that can be used.
        """
        try:
            return self._for_start(check, may_fall_back)
        except ShadowError as error:
            self._degraded.fails(SHADOW, str(error))
            return self._for_start(check, may_fall_back, f"{SHADOW}=null")

    def _for_start(self, check: bool, may_fall_back: bool, *overrides: str) -> Config:
        config = None
        try:
            config = self.load(*overrides)
            if check:
                check_rules(config)
        except ShadowError:
            raise
        except ConfigError as error:
            if not may_fall_back:
                raise
            return self._fall_back(error) if config is None else self.with_last_good_rules(config, error)
        return config

    def with_last_good_rules(self, config: Config, error: ConfigError) -> Config:
        """A config that could be read, with the last good rules, and what goes with them.  Raises ConfigError."""
        if RULES in self._degraded.reasons:
            raise error
        good = self._fall_back(error)
        return replace(config, rules=good.rules, sets=good.sets, limits=good.limits, helpers=good.helpers, policy=good.policy,
                       settings=mixed_settings(config.settings, good.settings, ("limits", "helpers", "policy")))

    def _fall_back(self, error: ConfigError) -> Config:
        if self._last_good is None:
            raise error
        try:
            good = self._last_good.read()
        except NoLastGood as none:
            raise ConfigError(error.location, f"{error.message}; {none}") from error
        self._degraded.fails(RULES, f"serving the last good ones, of {good.since} from {good.source}, because of {error}")
        return good.config

    def keep(self, config: Config, started: Config) -> None:
        """Its rules are in force, and no trial: they are the last good ones from now on.

        So are the settings of the start, `started`, of which a reload reads none but the policy again.
        """
        if self._last_good is None:
            return
        try:
            settings = mixed_settings(started.settings, config.settings, ("policy",))
            self._last_good.keep(replace(config, settings=settings), str(self._path))
        except (OSError, ConfigError) as error:
            self._say(f"warning: these rules are not kept as the last good ones: {error}")

    def keep_saved(self, config: Config, started: Config) -> None:
        """The files of rules were written anew: what they say is good, if it is, with the rest of `config`, which is in force.

        What else the config's files say by now was never tried.  Raises ConfigError.
        """
        config = replace(config, rules=self._saved_rules())
        check_rules(config)
        self.keep(config, started)

    def _saved_rules(self) -> Ruleset | None:
        rules, files = self.load().rules, rule_files(self._path)
        return rules and Ruleset(tuple(table for table in rules.tables if files.keys() & {None, "ipv4", table.name}))
