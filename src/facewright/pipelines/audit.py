"""Two attacks on a recogniser of one's own, on photos of one's own, and what defences are worth against them.

Template inversion: somebody has stolen the stored templates and makes faces from them, which the recogniser, or
another one, takes for the person. Adversarial watermark: somebody changes a photo invisibly, so that it stops matching
once a watermarking service has marked it.

Everything is local: a folder of photos goes in, a report comes out. No trained inverter ships; the mapping is trained
for each audit with what the attacker is said to have. Faces are made at no more than `PER_MINUTE`, carry the invisible
mark, and no names.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import FacewrightError, UsageError
from ..io.image import read
from ..io.kinds import survey
from ..metrics.attacks import FMRS, Rate, accepted, pair_scores, secret_rotation, thresholds
from ..progress import bar
from ..tasks.card import cards, get_card
from .choosing import largest_face, sure_faces
from .identity import calibration_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..geometry.crop import CropSpec
    from ..systems.attack.template_inversion.network import TemplateInversion
    from ..systems.attack.template_inversion.prior import Prior
    from ..systems.recognise.recogniser import Recogniser
    from ..tasks.audit import AuditOptions
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector

    Images = NDArray[np.uint8]
    Floats = NDArray[np.float64]

PER_MINUTE = 120
"""Most faces made from templates in a minute: an audit needs few, a mass of them is not what this is for."""
LEAST_PEOPLE = 5
LEAST_PHOTOS = 20
DRAWN = 512
"""Pictures of the generator's own that the attacker adds to photos: anybody with the recogniser has their templates."""
PGD_STEPS = 20
DEFAULT = "distilledface"
HONEST = 200
"""Pictures of other people by which the alarm is set."""
_BATCH = 8
_HIGH, _LOW = 0.5, 0.1


# --- photos


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A photo of one person of the folder, and the face in it."""

    person: str
    pixels: Images = field(repr=False)
    face: Face = field(repr=False)


def open_portraits(
    folder: Path, detector: Detector, log: Callable[[int, int | None], None]
) -> tuple[list[Portrait], dict[str, str]]:
    """The largest face of every photo of a folder of people, and why photos were left out, by their names.

    Raises UsageError for what is no folder of folders.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give one with a subfolder of photos for every person")
    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(person.name, path) for person in people for path, _ in survey(person, videos=False).files]
    if not files:
        raise UsageError(f"{folder} holds no folders with photos; give one folder per person")
    found, left_out = [], {}
    for number, (person, path) in enumerate(files):
        try:
            pixels = read(path).rgb()
            face = largest_face(sure_faces(detector.detect(pixels)))
            if face is None:
                left_out[f"{person}/{path.name}"] = "no face was found"
            else:
                found.append(Portrait(person, _around(pixels, face), _moved(pixels, face)))
        except FacewrightError as error:
            left_out[f"{person}/{path.name}"] = str(error)
        log(number + 1, len(files))
    return found, left_out


def _window(pixels: Images, face: Face) -> tuple[int, int, int, int]:
    """A generous part of the photo around the face, so that whole photos are not kept."""
    x0, y0, x1, y1 = face.box
    across, down = x1 - x0, y1 - y0
    height, width = pixels.shape[:2]
    left, top = max(0, int(x0 - across)), max(0, int(y0 - down))
    return left, top, min(width, int(x1 + across) + 1), min(height, int(y1 + down) + 1)


def _around(pixels: Images, face: Face) -> Images:
    left, top, right, bottom = _window(pixels, face)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _moved(pixels: Images, face: Face) -> Face:
    from ..face import Face as Moved

    left, top, _, _ = _window(pixels, face)
    by = np.array([left, top], np.float32)
    return Moved(face.box - np.concatenate([by, by]), face.score, face.points5 - by)


def cut(portraits: Sequence[Portrait], spec: CropSpec) -> Images:
    """Crops (N, S, S, 3) of portraits."""
    return np.stack([spec.cut(one.pixels, one.face).image for one in portraits])


@dataclass(frozen=True, slots=True)
class Sides:
    """Rows of the portraits: of each attacked person one whose template leaks and another one; and the attacker's."""

    leaked: tuple[int, ...]
    other: tuple[int, ...]
    attacker: tuple[int, ...]


def divide(people: Sequence[str], most: int, *, whole: bool) -> Sides:
    """Up to `most` people with two photos are attacked, by the digest of their names; the others are the attacker's.

    At least half of the people are the attacker's, unless the attacker has photos elsewhere (`whole`).
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(people):
        rows.setdefault(name, []).append(row)
    order = sorted(rows, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    several = [name for name in order if len(rows[name]) >= 2]
    count = min(most, len(several) if whole else len(order) // 2)
    attacked = several[:count]
    others = [row for name in order if name not in attacked for row in rows[name]]
    return Sides(
        tuple(rows[name][0] for name in attacked),
        tuple(rows[name][1] for name in attacked),
        () if whole else tuple(others),
    )


# --- the report


@dataclass(frozen=True, slots=True)
class Inversion:
    """Faces made from templates of `database` by a mapping trained with `loss`, shown to `target`.

    same_photo: accepted against the very photo whose template leaked, at each false match rate; other_photo: against
    another photo of the person. defence: what protected the templates, "" for nothing.
    """

    setting: str
    database: str
    loss: str
    target: str
    defence: str
    same_photo: Mapping[float, Rate]
    other_photo: Mapping[float, Rate]

    def to_dict(self) -> dict[str, Any]:
        words = {name: getattr(self, name) for name in ("setting", "database", "loss", "target", "defence")}
        rates = {"same_photo": self.same_photo, "other_photo": self.other_photo}
        return words | {name: _rates(values) for name, values in rates.items()}


@dataclass(frozen=True, slots=True)
class Watermark:
    """Probes that match another photo of the person: as they are, changed, marked, and changed then marked.

    alarm_false, alarm_caught: of honest and of attacked probes, how many the comparison before and after the mark
    refuses. undetected: attacked probes that stopped matching by the mark and raised no alarm.
    """

    epsilon: float
    clean: Rate
    changed: Rate
    marked: Rate
    both: Rate
    bits: float
    psnr: float
    alarm_false: Rate
    alarm_caught: Rate
    undetected: Rate

    def lines(self) -> list[str]:
        """The numbers for people."""
        return [
            f"probes that match: {self.clean} as they are, {self.changed} changed by up to {self.epsilon:g} of 255, "
            f"{self.marked} marked, {self.both} both",
            f"{100 * self.bits:.0f} % of the mark's bits stay readable; the change has {self.psnr:.1f} dB",
            f"consistency alarm: refuses {self.alarm_caught} of attacked and {self.alarm_false} of honest probes; "
            f"{self.undetected} are lost unnoticed",
        ]

    def to_dict(self) -> dict[str, Any]:
        numbers = {"epsilon": self.epsilon, "bits": round(self.bits, 4), "psnr": round(self.psnr, 2)}
        names = ("clean", "changed", "marked", "both", "alarm_false", "alarm_caught", "undetected")
        return numbers | {name: getattr(self, name).to_dict() for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """What the two attacks did; see `Inversion` and `Watermark`.

    genuine: other photos of the attacked people that the recogniser accepts, at each false match rate. thresholds: of
    every recogniser that was shown faces. left_out: photos without a usable face, with the reason. examples: made
    faces (N, S, S, 3), marked. watermark: None where no watermarking network was given.
    """

    FILES: ClassVar[tuple[str, ...]] = ("audit.json", "audit.html")

    recogniser: str
    weights_sha256: str | None
    people: int
    attacker_photos: int
    left_out: Mapping[str, str]
    thresholds: Mapping[str, Mapping[float, float]]
    genuine: Mapping[float, Rate]
    inversion: tuple[Inversion, ...]
    watermark: Watermark | None
    options: AuditOptions
    examples: Images = field(repr=False)

    @property
    def risk(self) -> dict[str, str]:
        """ "high", "some" or "low" for each attack: the worst that the attacker achieves where nothing defends.

        Of inversion over all settings and thresholds, and against the leaked photo, too: systems keep few pictures of a
        person. Low says that this attacker, with this generator and these photos, did not succeed, not that none can.
        """
        undefended = [row for row in self.inversion if not row.defence]
        rates = [rate for row in undefended for each in (row.same_photo, row.other_photo) for rate in each.values()]
        worst = max((rate.share for rate in rates), default=0.0)
        found = {"template inversion": _level(worst)}
        if self.watermark is None:
            return found
        matched, left = self.watermark.marked.count, self.watermark.both.count
        return found | {"adversarial watermark": _level((matched - left) / max(1, matched))}

    def lines(self) -> list[str]:
        """The report for people."""
        said = [
            f"{self.recogniser}: {self.people} people attacked, with {self.attacker_photos} photos of others in the "
            f"attacker's hands",
        ]
        if self.left_out:
            said.append(f"{len(self.left_out)} photos were left out, because no face in them could be used")
        for fmr, rate in self.genuine.items():
            said.append(f"genuine: another photo of the person is accepted in {rate} of cases (FMR {fmr:g})")
        said.append(f"template inversion: {self.risk['template inversion']} risk")
        for row in self.inversion:
            shown = "; ".join(
                f"FMR {fmr:g}: {row.other_photo[fmr]} against another photo, {rate} against the leaked one"
                for fmr, rate in row.same_photo.items()
            )
            said.append(f"  {row.setting}{f', {row.defence}' if row.defence else ''}: {shown}")
        if self.watermark is None:
            said.append("adversarial watermark: not tried, for no watermarking network was given")
        else:
            said.append(f"adversarial watermark: {self.risk['adversarial watermark']} risk")
            said += [f"  {line}" for line in self.watermark.lines()]
        low = "note: low says that this attacker did not succeed; another generator or more photos may find more"
        return [*said, low]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return {
            "recogniser": self.recogniser,
            "weights_sha256": self.weights_sha256,
            "people": self.people,
            "attacker_photos": self.attacker_photos,
            "left_out": dict(self.left_out),
            "thresholds": {
                name: {f"{fmr:g}": round(limit, 6) for fmr, limit in limits.items()}
                for name, limits in self.thresholds.items()
            },
            "genuine": _rates(self.genuine),
            "inversion": [row.to_dict() for row in self.inversion],
            "watermark": None if self.watermark is None else self.watermark.to_dict(),
            "risk": self.risk,
            "words": self.lines(),
            "options": asdict(self.options),
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write `audit.json`, `audit.html` and the examples into a folder; returns the files."""
        from .. import __version__
        from ..io.atomic import atomic_output
        from ..io.provenance import Provenance, xmp_packet

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        texts = (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", page(self))
        files = [target / name for name in self.FILES]
        for file, text in zip(files, texts):
            with atomic_output(file, overwrite=overwrite) as temporary:
                Path(temporary).write_text(text, encoding="utf-8", errors="backslashreplace")
        models = ("template_inversion", self.options.generator)
        record = Provenance(version=__version__, action="made from a template", models=models)
        for number, picture in enumerate(self.examples):
            files.append(target / f"made-{number:02d}.png")
            read(picture).save(files[-1], overwrite=overwrite, xmp=xmp_packet(record))
        return files


def _rates(values: Mapping[float, Rate]) -> dict[str, Any]:
    return {f"{fmr:g}": rate.to_dict() for fmr, rate in values.items()}


def _level(share: float) -> str:
    return "high" if share >= _HIGH else "some" if share >= _LOW else "low"


def page(report: AuditReport) -> str:
    """The report as a page that needs nothing else; pictures are not in it."""
    fmrs = list(report.genuine)
    head = ["setting", "defence", *(f"SAR, FMR {fmr:g}, {kind}" for fmr in fmrs for kind in ("other photo", "leaked"))]
    rows = [
        [row.setting, row.defence or "none"]
        + [str(v) for fmr in fmrs for v in (row.other_photo.get(fmr, "–"), row.same_photo.get(fmr, "–"))]
        for row in report.inversion
    ]
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #999;padding:.3rem .6rem;text-align:left}"
    )
    name = escape(report.recogniser)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Audit of {name}</title><style>{style}</style>',
        f"<h1>Audit of {name}</h1>",
        *(f"<p>{escape(line.strip())}</p>" for line in report.lines()),
        "<h2>Template inversion</h2>",
        _table(head, rows),
        *([] if report.watermark is None else _watermark_part(report.watermark)),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _watermark_part(w: Watermark) -> list[str]:
    rows = [
        ["match as they are", str(w.clean)],
        ["changed, not marked", str(w.changed)],
        ["marked, not changed", str(w.marked)],
        ["changed, then marked", str(w.both)],
        ["attacked probes refused by the alarm", str(w.alarm_caught)],
        ["honest probes refused by the alarm", str(w.alarm_false)],
        ["lost unnoticed", str(w.undetected)],
    ]
    return ["<h2>Adversarial watermark</h2>", _table(["condition", "share (95 %)"], rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


# --- the attacks


class Pace:
    """Lets no more than so many things pass in a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.gap, self.clock, self.next = 60 / per_minute, clock, clock()

    def wait(self, count: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until `count` more may pass."""
        now = self.clock()
        if self.next > now:
            sleep(self.next - now)
        self.next = max(self.next, now) + count * self.gap


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """A recogniser, what its similarities mean, and its embeddings of all portraits, of length 1."""

    name: str
    network: Recogniser
    limits: Mapping[float, float]
    seen: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An attack by template inversion, in the paper's terms: three recognisers."""

    name: str
    database: Audited
    loss: Audited
    target: Audited
    identity: float = 1.0


def settings_of(audited: Audited, proxy: Audited | None, other: Audited | None) -> list[Setting]:
    """The settings that the recognisers at hand allow, and the control whose mapping was trained without identity."""
    found = [Setting("whitebox", audited, audited, audited)]
    if proxy is not None:
        found += [
            Setting("blackbox", audited, proxy, audited),
            Setting("whitebox, shown to the attacker's other recogniser", audited, audited, proxy),
        ]
    if other is not None:
        found.append(Setting("whitebox, shown to an unknown recogniser", audited, audited, other))
    if proxy is not None and other is not None:
        found.append(Setting("blackbox, shown to an unknown recogniser", audited, proxy, other))
    return [*found, Setting("control: without identity", audited, audited, audited, identity=0.0)]


class Inverter:
    """Trains one mapping for every (database, loss) and makes faces of leaked templates with it."""

    def __init__(self, generator: Any, attacker: Images, options: AuditOptions) -> None:
        from ..systems.attack.template_inversion.prior import face_of, paint, prior_of

        self.generator, self.options = generator, options
        self.prior: Prior = prior_of(generator)
        self.face = face_of(self.prior)
        own = self._own_styles()
        drawn = paint(self.prior, own)
        told = self.prior.styles_of(attacker)
        self.attacker = np.concatenate([attacker, drawn])
        self.styles = own.float().cpu().numpy() if told is None else np.concatenate([told, own.float().cpu().numpy()])
        self.pace = Pace(PER_MINUTE)
        self.known: dict[tuple[str, str, float], TemplateInversion] = {}
        self.templates: dict[str, Floats] = {}

    def _own_styles(self) -> Any:
        import torch

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.options.seed)
            return self.prior.real(DRAWN, next(self.prior.network.parameters()).device)

    def mapping(self, setting: Setting, log: Callable[[int, int | None], None]) -> TemplateInversion:
        """The mapping of a setting, trained when first asked for."""
        import torch

        from ..systems.attack.template_inversion.network import TemplateInversion, TemplateInversionConfig
        from ..systems.attack.template_inversion.training import TemplateInversionTraining, fit, regress

        key = (setting.database.name, setting.loss.name, setting.identity)
        if key not in self.known:
            name = setting.database.name
            if name not in self.templates:
                self.templates[name] = self.embed(setting.database.network, self.attacker)
            templates = self.templates[name]
            config = TemplateInversionConfig.for_prior(self.prior, templates.shape[1])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.options.seed)
                model = TemplateInversion(config).to(setting.loss.network.device)
            # training takes its networks' gradients away; those of the session stay as they are
            generator, judge = copy.deepcopy(self.generator), copy.deepcopy(setting.loss.network)
            training = TemplateInversionTraining(model, generator, judge, identity=setting.identity)
            given = templates.astype(np.float32)
            regress(model, given[-len(self.styles) :], self.styles, seed=self.options.seed)
            steps, seed = self.options.steps, self.options.seed
            self.known[key] = fit(training, self.attacker, given, steps=steps, seed=seed, log=log)
        return self.known[key]

    def embed(self, recogniser: Recogniser, pictures: Images) -> Floats:
        """Unit embeddings (N, D) of the generator's pictures, or of photos cut as it places faces."""
        crops = np.stack([recogniser.preprocess.crop.cut(picture, self.face).image for picture in pictures])
        return recogniser.embed(crops).astype(np.float64)

    def make(self, model: TemplateInversion, templates: Floats) -> Images:
        """Marked faces of templates (N, D), at the pace that is allowed."""
        self.pace.wait(len(templates))
        return model.reconstruct(templates.astype(np.float32), self.generator, seed=self.options.seed)


def invert(
    inverter: Inverter, settings: Sequence[Setting], templates: Floats, sides: Sides, seed: int
) -> tuple[list[Inversion], Images]:
    """All settings on the leaked templates (N, D), and the first one once more with templates that are protected."""
    rows: list[Inversion] = []
    first: Images = np.zeros((0, 1, 1, 3), np.uint8)
    for setting in settings:
        with bar(setting.name) as advance:
            model = inverter.mapping(setting, advance)
        made = inverter.make(model, templates)
        first = made if not rows else first
        rows.append(_shown(inverter, setting, made, sides, ""))
    protected = templates @ secret_rotation(templates.shape[1], seed + 1).T
    made = inverter.make(inverter.mapping(settings[0], lambda *_: None), protected)
    rows.append(_shown(inverter, settings[0], made, sides, "templates turned by a secret rotation"))
    return rows, first


def _shown(inverter: Inverter, setting: Setting, made: Images, sides: Sides, defence: str) -> Inversion:
    target = setting.target
    seen = inverter.embed(target.network, made)
    same, other = (accepted(seen, target.seen[list(rows)], target.limits) for rows in (sides.leaked, sides.other))
    names = (setting.database.name, setting.loss.name, target.name)
    return Inversion(setting.name, *names, defence, same, other)


def watermark(
    hidden: Any, crops: Images, gallery: Floats, honest: Images, audited: Audited, loss: Audited, options: AuditOptions
) -> Watermark:
    """Change probes (N, S, S, 3), mark them, and compare them with other photos' embeddings (N, D).

    The change is looked for with the recogniser `loss` and the very message that is hidden (the strong setting). The
    alarm's threshold is that of 1 % of `honest` pictures, which are of other people.
    """
    import torch

    from ..systems.attack.adversarial_watermark.attack import PgdOptions, alarm_threshold, alarmed, compare, perturb
    from ..systems.attack.embedding import embedding_of

    rng = np.random.default_rng(options.seed)
    pgd = PgdOptions(epsilon=options.epsilon / 255, steps=PGD_STEPS)
    seeing, attacking = embedding_of(audited.network), embedding_of(loss.network)
    found = []
    with bar("watermark") as advance:
        for start in range(0, len(crops), _BATCH):
            part = slice(start, start + _BATCH)
            image = torch.from_numpy(crops[part]).permute(0, 3, 1, 2).float().to(audited.network.device) / 255
            bits = rng.integers(0, 2, (len(image), hidden.config.bits))
            message = torch.from_numpy(bits).float().to(image)
            with torch.no_grad():
                own = attacking(image)
            with loss.network.picture_autocast():
                delta = perturb(image, own, hidden, attacking, message=message, options=pgd, seed=options.seed)
            known = torch.from_numpy(gallery[part]).to(image)
            found.append(compare(image, delta, known, message, hidden, seeing))
            advance(min(start + _BATCH, len(crops)), len(crops))
    clean, changed, marked, both, consistent, attacked = (
        np.concatenate([getattr(each, name) for each in found])
        for name in ("clean", "changed", "marked", "both", "consistency_honest", "consistency_attacked")
    )
    limit = audited.limits[min(audited.limits)]
    kappa = alarm_threshold(_consistency(hidden, honest, seeing, rng))
    caught = alarmed(attacked, kappa)
    lost = (marked >= limit) & (both < limit)
    return Watermark(
        options.epsilon,
        Rate.of(clean >= limit),
        Rate.of(changed >= limit),
        Rate.of(marked >= limit),
        Rate.of(both >= limit),
        float(np.average([each.bits for each in found], weights=[len(each.clean) for each in found])),
        float(np.average([each.psnr for each in found], weights=[len(each.clean) for each in found])),
        Rate.of(alarmed(consistent, kappa)),
        Rate.of(caught),
        Rate.of(lost & ~caught),
    )


def _consistency(hidden: Any, crops: Images, embed: Callable[[Any], Any], rng: np.random.Generator) -> Floats:
    """Similarity (N,) of pictures before and after the mark."""
    import torch

    from ..systems.attack.adversarial_watermark.attack import marked

    found = []
    for start in range(0, len(crops), _BATCH):
        image = torch.from_numpy(crops[start : start + _BATCH]).permute(0, 3, 1, 2).float().to(hidden.device) / 255
        message = torch.from_numpy(rng.integers(0, 2, (len(image), hidden.config.bits))).float().to(image)
        with torch.inference_mode():
            seen = [embed(each) for each in (image, marked(hidden, image, message, rounded=True))]
            found.append(torch.nn.functional.cosine_similarity(*seen).double().cpu().numpy())
    return np.concatenate(found)


# --- all of it


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Path, AuditOptions], AuditReport]:
    """The audit as a callable of a folder."""

    def run(folder: Path, options: AuditOptions) -> AuditReport:
        return audit(session, choice, folder, options)

    return run


def audit(session: Networks, choice: NetworkChoice, folder: Path, options: AuditOptions) -> AuditReport:
    """Both attacks on the chosen recogniser; raises UsageError where there are too few photos to say anything."""
    names = [name for name in (choice.recogniser or DEFAULT, options.proxy, options.target) if name]
    if len({get_card(name).slug for name in names}) < len(names):
        raise UsageError(f"the recognisers {', '.join(names)} have to be different ones")
    detector = session.detector(choice)
    with bar(folder.name) as advance:
        portraits, left_out = open_portraits(folder, detector, advance)
    people = [one.person for one in portraits]
    sides = divide(people, options.people, whole=options.attacker is not None)
    theirs = [portraits[row] for row in sides.attacker]
    if options.attacker is not None:
        with bar("attacker's photos") as advance:
            found, more = open_portraits(Path(options.attacker), detector, advance)
        theirs = [one for one in found if one.person not in set(people)]
        left_out |= more
    if len(sides.leaked) < LEAST_PEOPLE or len(theirs) < LEAST_PHOTOS:
        raise UsageError(
            f"{len(sides.leaked)} people with two usable photos and {len(theirs)} photos for the attacker are too few: "
            f"at least {LEAST_PEOPLE} and {LEAST_PHOTOS} are needed; give photos of more people"
        )
    known: dict[str, Audited] = {}

    def one_of(name: str | None, weights: str | None = None) -> Audited | None:
        if name is None:
            return None
        if name not in known:
            known[name] = audited_of(_recogniser(session, name, weights, choice.device), portraits, people, weights)
        return known[name]

    audited = one_of(choice.recogniser or DEFAULT, options.weights)
    assert audited is not None
    proxy, other = one_of(options.proxy), one_of(options.target)
    generator = session.network(options.generator, None, choice.device)
    inverter = Inverter(generator, cut(theirs, generator.preprocess.crop), options)
    templates, sides = _leaked(audited, options, people, sides)
    rows, made = invert(inverter, settings_of(audited, proxy, other), templates, sides, options.seed)
    marks = None
    if options.watermark is not None:
        spec = audited.network.preprocess.crop
        takes_the_same = proxy is not None and proxy.network.preprocess.crop == spec
        marks = watermark(
            session.network("adversarial_watermark", options.watermark, choice.device),
            cut([portraits[row] for row in sides.leaked], spec),
            audited.seen[list(sides.other)],
            cut(theirs[:HONEST], spec),
            audited,
            proxy if proxy is not None and takes_the_same else audited,
            options,
        )
    genuine = accepted(audited.seen[list(sides.leaked)], audited.seen[list(sides.other)], audited.limits)
    return AuditReport(
        audited.name,
        audited.network.weights_sha256,
        len(sides.leaked),
        len(theirs),
        left_out,
        {each.name: each.limits for each in known.values()},
        genuine,
        tuple(rows),
        marks,
        options,
        made[: options.examples],
    )


def _recogniser(session: Networks, name: str, weights: str | None, device: str) -> Recogniser:
    from ..systems.recognise.recogniser import Recogniser as Known

    card = get_card(name)
    if "recognise" not in card.tasks:
        known = ", ".join(each.slug for each in cards().values() if "recognise" in each.tasks)
        raise UsageError(f"{card.slug} is no recogniser; choose one of {known}")
    network = session.network(card.slug, weights, device)
    if not isinstance(network, Known):
        raise UsageError(f"{card.slug} cannot be attacked: its gradients cannot be computed")
    return network


def audited_of(
    network: Recogniser, portraits: Sequence[Portrait], people: Sequence[str], weights: str | None
) -> Audited:
    """A recogniser with its embeddings of portraits, and thresholds of its calibration or else of the photos."""
    seen = network.embed(cut(portraits, network.preprocess.crop)).astype(np.float64)
    calibration = calibration_of(network, weights)
    points = {} if calibration is None else {point.far: point.threshold for point in calibration.points}
    scores, same = pair_scores(seen, people)
    limits = thresholds(scores, same, {fmr: points[fmr] for fmr in FMRS if fmr in points})
    return Audited(network.slug, network, limits, seen)


def _leaked(audited: Audited, options: AuditOptions, people: Sequence[str], sides: Sides) -> tuple[Floats, Sides]:
    """The templates that leak, and the sides without people who are not in the gallery, where one is given."""
    if options.gallery is None:
        return audited.seen[list(sides.leaked)], sides
    from ..gallery.photos import recogniser_id
    from ..gallery.store import Gallery

    recogniser: Any = audited.network
    with Gallery.open(options.gallery, recogniser_id(recogniser), key_file=options.key) as gallery:
        enrolled = {person.name for person in gallery.people()}
        places = [i for i, row in enumerate(sides.leaked) if people[row] in enrolled]
        vectors = [gallery.samples(people[sides.leaked[i]])[0].vector for i in places]
    if len(places) < LEAST_PEOPLE:
        raise UsageError(
            f"{len(places)} of the people with two photos are enrolled in {options.gallery}; at least {LEAST_PEOPLE} "
            f"are needed, whose folders have the names they were enrolled under"
        )
    chosen = Sides(tuple(sides.leaked[i] for i in places), tuple(sides.other[i] for i in places), sides.attacker)
    return np.stack(vectors).astype(np.float64), chosen
