"""Keep, the one door: every verb is a method that resolves, calls and records, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import convert, lineage, making, optimize, update
from modelkeep.data import dataset, labels, sample
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Busy, Damaged, ModelkeepError, Wrong
from modelkeep.model import baseline, engines, folder, formats, score
from modelkeep.optimize import budget
from modelkeep.provenance import again
from modelkeep.registry import Registry
from modelkeep.settings import Settings, read
from modelkeep.types import Model, Ref, Report, Route, Version

if TYPE_CHECKING:
    from modelkeep.making import OnStep
    from modelkeep.monitor.alerts import Alerts
    from modelkeep.monitor.look import Checked
    from modelkeep.monitor.thread import Watcher
    from modelkeep.rollout.canary import Canary, Decision
    from modelkeep.serve.plane.plane import Plane
    from modelkeep.tune.benchmark import Benchmark
    from modelkeep.tune.search import Tune


class Keep:
    """A registry and the verbs over it. ``who`` is written beside every journal entry.

    Every method raises only what errors.py lists, each with one sentence that says what to do.
    """

    def __init__(self, settings: Settings | None = None, *, who: str = "person") -> None:
        self.settings = settings or read()
        self.registry = Registry.open(self.settings)
        self.who = who
        self.telling = threading.Lock()
        """Who tells of findings, one at a time, so that each is told once."""
        making.sweep(self.settings.home)

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, ref: str | Ref | Version) -> Version:
        """The version that a Ref names. Raises NotFound with what there is."""
        return ref if isinstance(ref, Version) else self.registry.get(ref)

    def model(self, ref: str | Ref | Version) -> Model:
        """Its folder on this machine, every digest verified."""
        return self.registry.checkout(self.get(ref))

    @property
    def traffic(self) -> Path:
        """Where servers keep the requests that monitor and rollout read."""
        return self.settings.home / "traffic.db"

    def read_data(self, path: Path, ref: str | Ref | Version) -> Dataset:
        """Rows from a file, or from the folder of a sample with the labels that came, fitted to the signature."""
        version = self.get(ref)
        if not Path(path).is_dir():
            return dataset.read(path, version.model.signature)
        rows = sample.rows(Path(path), version.name, labels.known(self.traffic, version.name))
        return dataset.fit(rows, version.model.signature)

    def labelled(self, name: str, *, since: float = 0.0, limit: int | None = None) -> Dataset:
        """Requests whose truth has come, newest ``limit``: captured, or in the sample. Raises BadData when none."""
        return sample.labelled(self.traffic, self.settings.sample, name, since=since, limit=limit)

    # ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, source: Path, name: str, **options: Any) -> Version:
        """Register a trained model as a new version.

        ``options`` are those of formats.adopt; the rows in ``data`` become the version's reference.
        """
        Ref.parse(name)
        given = "".join(f", {key}={options[key]!r}" for key in ("factory", "task", "with_past") if options.get(key))
        with making.workspace(self.settings.home) as room:
            baseline.keep(formats.adopt(source, room, **options), options.get("data"))
            return self.registry.add(name, room, made_by=f"add({source.name!r}{given})", who=self.who)

    def convert(self, ref: str | Ref | Version, to: str, *, rows: Dataset | None = None, **options: Any) -> Version:
        """The same weights in another format, once the answers have been shown to agree. Raises Differs.

        Where it takes several steps, each is a version; the last one, held against ``ref`` as well, is returned.
        """
        base = self.get(ref)
        rows = rows or folder.reference(self.model(base).path)
        steps = convert.steps(base.model.format, to, rows=rows, **options)
        with making.workspace(self.settings.home) as room:
            made = making.run(self.model(base), steps, room)
            proofs = [convert.prove_end(self.model(base), made[-1].model, rows, **options)] if len(made) > 1 else []
            return making.record(self.registry, base, made, *proofs, rows=rows, who=self.who)

    def score(self, ref: str | Ref | Version, rows: Dataset) -> Report:
        """Accuracy on labelled rows, with n and the interval."""
        model = self.model(ref)
        with contextlib.closing(engines.load(model)) as runner:
            return score.score(runner, rows, model.labels)

    def optimize(
        self,
        ref: str | Ref | Version,
        rows: Dataset,
        *,
        max_drop: float,
        student: str | None = None,
        quantize: bool = True,
        train_rows: Dataset | None = None,
        on_step: OnStep | None = None,
        **distil: Any,
    ) -> list[tuple[str, Version | None, Report]]:
        """Cheaper versions that lose at most ``max_drop`` of accuracy on ``rows``; a refused one has no Version."""
        base = self.get(ref)
        model = self.model(base)
        recipes = optimize.recipes(
            model.format,
            train_rows or folder.reference(model.path),
            student=student,
            quantize=quantize,
            export=lambda rows: convert.steps("torch", model.format, rows=rows),
            **distil,
        )
        found: list[tuple[str, Version | None, Report]] = []
        for what, steps in recipes.items():
            with making.workspace(self.settings.home) as room:
                made = making.run(model, steps, room, on_step)
                verdict = budget.within(model, made[-1].model, rows, max_drop)
                version = making.record(self.registry, base, made, verdict, who=self.who) if verdict.ok else None
            if version is None:
                self.registry.note(base.name, "refused", f"{what}: {verdict.why}", {"base": base.number}, who=self.who)
            found.append((what, version, verdict))
        return found

    def update(
        self,
        ref: str | Ref | Version,
        rows: Dataset,
        *,
        method: str = "finetune",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Version:
        """New knowledge from labelled rows: trains the nearest trainable ancestor, then repeats the steps to ``ref``.

        Raises Regressed when the result is not better on new rows, forgets the old ones, or no longer keeps what
        optimize promised of ``ref``.
        """
        trained, *made = self.trainable(ref)
        taught, repeated = again([version.made_by for version in made], rows)
        with making.workspace(self.settings.home) as room:
            steps = [update.step(method, rows=taught, **options), *repeated]
            new = making.run(self.model(trained), steps, room, on_step)
            promised = lineage.still_kept([one.model for one in new], made, rows)
            return making.record(self.registry, trained, new, *promised, who=self.who)

    def trainable(self, ref: str | Ref | Version) -> list[Version]:
        """The nearest ancestor that update trains, and what was made of it, to ``ref``. Raises Unsupported with the
        way to one where there is none, BadModel where it is none that tells classes apart.
        """
        return lineage.trainable(self.lineage(ref))

    def lineage(self, ref: str | Ref | Version) -> list[Version]:
        """The version and its ancestors, the oldest first."""
        line = [self.get(ref)]
        while (parent := line[0].parent) is not None:
            line.insert(0, self.registry.get(Ref(line[0].name, parent)))
        return line

    # ── settings, traffic and truth ──────────────────────────────────────────────────────────────────────────────

    def tune(
        self,
        ref: str | Ref | Version,
        search: Tune,
        *,
        fresh: bool = False,
        progress: Callable[..., None] | None = None,
    ) -> Report:
        """The fastest settings of this machine that keep the promise, measured through the serving plane; stored if ok.

        Versions that ``optimize`` made from this one take part; one that wins is named, and its settings stored, but it
        does not take this one's place. What was measured here before is not measured again, unless ``fresh``.
        """
        from modelkeep.tune import recorded

        self._ensure_baseline(self.get(ref), search.rows)
        return recorded.tune(self.registry, self.get(ref), search, fresh=fresh, progress=progress, who=self.who)

    def bench(
        self,
        ref: str | Ref | Version,
        plan: Benchmark,
        *,
        versus: str | Ref | Version | None = None,
        rows: Dataset | None = None,
        setting: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        progress: Callable[..., None] | None = None,
    ) -> tuple[Report, list[Path]]:
        """What a version costs and bears on this machine, in the setting tuned for it changed by ``setting``.

        The report goes to the version, and with a plot as files into ``folder`` or below the registry's ``reports``;
        where it cannot be kept, it says so.
        """
        from modelkeep.tune import plots, recorded

        subject = recorded.subject(self.registry, self.get(ref), setting or {})
        other = None if versus is None else recorded.subject(self.registry, self.get(versus), setting or {})
        if folder is not None:
            plots.room(folder)  # it is refused before anything is measured
        report = plan.run(subject, rows, other=other, progress=progress)
        report = recorded.kept(self.registry, self.get(ref), report, who=self.who)
        if folder is not None:
            return report, plots.save(report, folder)
        return recorded.saved(report, self.settings.home / "reports" / subject.name)

    def serve(
        self,
        names: Sequence[str],
        *,
        on_ready: Callable[[str], None] | None = None,
        on_setting: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        """Answer for these models until SIGINT or SIGTERM. A model without a live version gets its newest.

        ``on_setting`` is told in a sentence what each was tuned to, or that it was not tuned on this machine. Raises
        Wrong for a version where a model's name belongs.
        """
        from modelkeep.serve import server
        from modelkeep.tune import machine
        from modelkeep.tune.elsewhere import tuned, untuned

        names = list(dict.fromkeys(names))
        for name in names:
            if "@" in name:
                version = self.get(name)
                is_live = self.registry.route(version.name).live == version.number
                mend = f"serve {version.name}" if is_live else f"first: modelkeep promote {version.ref}"
                raise Wrong(f"serve takes a model's name and follows its route; {mend}")
            if self.registry.route(name).live is None:
                self.promote(Ref(name, "newest"), why="served with no live version: the newest")
            live = self.get(Ref(name, "live"))
            here = machine.fingerprint(live.model.format)
            self._ensure_baseline(live)
            said = untuned(self.registry, live, here) or tuned(self.registry, live, here, options.get("options"))
            if on_setting is not None:
                on_setting(said)
        given = {"alerted": self.alerted, "on_ready": on_ready, "beside": self._watchers(options), **options}
        named = functools.cache(machine.fingerprint)
        server.serve_registry(self.registry, names, self.settings, machine=named, **given)

    def label(self, name: str, truth: Mapping[str, Any]) -> labels.Recorded:
        """Truth by request id; says how many match a captured request."""
        self.registry.versions(name)
        return labels.record(self.traffic, name, truth)

    def monitor(
        self, ref: str | Ref | Version, *, alerts: Alerts | None = None, plots: bool = False, **limits: Any
    ) -> Checked:
        """Drift, quality and health of what was served; a new finding goes to the journal and to ``alerts`` once.

        ``limits`` are the fields of monitor's Limits, before those of the settings. What a service or somebody else
        found by other ones, and is not over, is a note; so is that the journal cannot be written to now.
        """
        from modelkeep.monitor import look, telling

        version = self.get(ref)
        home, promised = self.settings.home, self.settings.promised
        held = {**promised, **limits}
        checked = look.check(version, self.model(version), home, plots=plots, **held)
        try:
            with self.telling:
                past = telling.Past(self.registry, version.name)
                others = telling.tell(past, version, checked, alerts, self.who, limits=held)
        except (Damaged, Busy) as error:
            return checked.noting([f"this look is not kept in the journal{', nor told' if alerts else ''}: {error}"])
        return checked.noting(
            f"{e.data['kind']} of {e.data['subject']} is still open, as {e.who} found (entry {e.id} of the journal), "
            f"though not by the limits of this look: {e.why}"
            for e in others
        )

    def alerted(self, document: Any) -> int:
        """What Alertmanager tells (a webhook's document), as findings in the journal; returns how many are new.

        An alert that is told again is written once, and once more when it is over. Raises BadInput.
        """
        from modelkeep.monitor.prometheus import webhook

        with self.telling:
            return webhook.record(self.registry, document)

    # ── who answers ──────────────────────────────────────────────────────────────────────────────────────────────

    def rollout(
        self,
        ref: str | Ref | Version,
        plan: Canary,
        *,
        on_step: Callable[..., None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Decision:
        """A canary in steps, judged on live outcomes: promoted, or ended with the old version live.

        ``sleep`` waits between two looks; what it raises leaves the canary as it is, for a later run to go on with.
        Where the plan has no ``min_accuracy``, that of the settings is promised. Raises Conflict where another rollout
        of the model goes on.
        """
        from modelkeep.rollout import attended

        if plan.min_accuracy is None:
            plan = dataclasses.replace(plan, min_accuracy=self.settings.promised.get("min_accuracy"))
        version = self.get(ref)
        self.model(version)  # a damaged version is refused before it gets any traffic
        with attended.alone(self.settings.home, version.name):
            return plan.run(
                self.registry, version.name, version.number, self.traffic, sleep=sleep, on_step=on_step, who=self.who
            )

    def attended(self, name: str) -> bool:
        """Whether a rollout of the model goes on now; else its canary, if it has one, was left behind."""
        from modelkeep.rollout import attended

        return attended.attended(self.settings.home, name)

    def promote(self, ref: str | Ref | Version, *, why: str = "promoted by hand") -> Route:
        """Live at once, with no canary."""
        version = self.get(ref)
        self.model(version)
        return self.registry.promote(version.name, version.number, why=why, who=self.who)

    def rollback(self, name: str, *, why: str = "rolled back by hand") -> Route:
        """End the canary or, where there is none, bring the previous version back: one write."""
        return self.registry.rollback(name, why=why, who=self.who)

    # ── what the verbs share ─────────────────────────────────────────────────────────────────────────────────────

    def _ensure_baseline(self, version: Version, rows: Dataset | None = None) -> None:
        """Make what live requests are held against, for a version that was kept without it."""
        with contextlib.suppress(ModelkeepError):  # a damaged version is told of where it is to be loaded
            baseline.ensure(self.model(version), self.settings.home, version.digest, rows)

    def _watchers(self, options: Mapping[str, Any]) -> list[Callable[[Plane], Watcher]]:
        """Who watches a service: one, or none where it is turned off. Raises BadSettings before anything is served."""
        settings = self.settings
        if not settings.monitor_every:
            return []
        from modelkeep.monitor import service

        p99 = options.get("options", {}).get("p99")
        limits = settings.promised | ({} if p99 is None else {"p99": p99})
        looks = service.Looks(self.registry, settings, limits, self.telling)
        return [lambda plane: service.start(looks, plane.metrics, lambda: plane.names, settings)]

    def __enter__(self) -> Keep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the registry's database."""
        self.registry.close()
