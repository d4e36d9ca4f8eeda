"""The bugs that `tools/audit/mutants.py` plants: a name, the file, what stands there, what is put in its place, and the
tests of the room that must notice.

Each is one that a person could make. What stands there must occur once in the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """`file` below `src/facewright`, `tests` below `tests`; `only` is pytest's -k, where a file is slow."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    only: str = ""


_FRGP = "systems/restore/frgp/training.py"
_TERMS = ("training/test_terms.py",)
_FACE = ("losses/test_face.py",)
_RECONSTRUCTION = ("losses/test_reconstruction.py",)
_MARGINS = ("losses/test_margins.py",)
_SEGMENTATION = ("losses/test_segmentation.py",)
_DETAIL = "systems/restore/facedetail/training.py"
_FACEDETAIL = ("systems/restore/test_facedetail.py",)
_STAGES = "pipelines/two_stage.py"
_TWO_STAGE = ("pipelines/test_two_stage.py",)
_PLAUSIBLE = ("pipelines/test_plausible.py",)
_SHARPNESS = ("systems/quality/test_sharpness.py",)
_REFERENCES = ("pipelines/test_references.py",)
_LIVECHECK = ("systems/liveness/test_livecheck.py",)
_PARTSPECTRUM = ("systems/forgery/test_partspectrum.py",)
_REFLDM = ("systems/restore/test_refldm.py",)
_TRAITS = ("pipelines/test_traits.py",)
_PRESENTATION = ("metrics/test_presentation.py",)
_MARGIN_TRAINING = ("systems/recognise/test_margin_training.py",)
_GEOMETRY = ("geometry/test_geometry.py", "geometry/test_crop.py")

BUGS: tuple[Bug, ...] = (
    # the restorer's terms
    Bug(
        "identity pushes away",
        _FRGP,
        '"identity": self.identity_weight * distance.identity,',
        '"identity": -self.identity_weight * distance.identity,',
        _TERMS,
    ),
    Bug(
        "features push away",
        _FRGP,
        '"perceptual": self.features_weight * distance.features,',
        '"perceptual": -self.features_weight * distance.features,',
        _TERMS,
    ),
    Bug(
        "log error pushes away",
        _FRGP,
        'losses["log"] = self.log_weight * log_mse',
        'losses["log"] = -self.log_weight * log_mse',
        _TERMS,
    ),
    Bug(
        "estimate pushes away",
        _FRGP,
        '"estimate": self.estimate_weight * l1_loss(aux',
        '"estimate": -self.estimate_weight * l1_loss(aux',
        _TERMS,
    ),
    Bug(
        "edges push away",
        _FRGP,
        '"edge": self.edge_weight * edge_loss(restored, high, mask),',
        '"edge": -self.edge_weight * edge_loss(restored, high, mask),',
        _TERMS,
    ),
    Bug(
        "structure pushes away",
        _FRGP,
        'losses["ssim"] = self.ssim_weight * ssim_loss',
        'losses["ssim"] = -self.ssim_weight * ssim_loss',
        _TERMS,
    ),
    Bug(
        "log error without the mask",
        _FRGP,
        "log_mse(restored.float(), high, mask)",
        "log_mse(restored.float(), high)",
        _TERMS,
    ),
    Bug(
        "face terms see behind the mask",
        _FRGP,
        "(torch.where(mask > 0, restored, high), high)",
        "(restored, high)",
        _TERMS,
    ),
    Bug(
        "the restorer is fed the truth",
        _FRGP,
        "restored, aux = self.model(low, fidelity=fidelity, return_aux=True)",
        "restored, aux = self.model(high, fidelity=fidelity, return_aux=True)",
        _TERMS,
    ),
    Bug(
        "the discriminator's pictures are swapped",
        _FRGP,
        "loss = hinge_discriminator(_valid(real, mask), _valid(fake, mask))",
        "loss = hinge_discriminator(_valid(fake, mask), _valid(real, mask))",
        _TERMS,
    ),
    Bug(
        "the prior is never frozen",
        _FRGP,
        "parameter.requires_grad_(progress >= self.prior_from)",
        "parameter.requires_grad_(True)",
        ("systems/restore/test_frgp_training.py",),
    ),
    # losses that look at faces
    Bug(
        "identity is the cosine itself",
        "losses/face.py",
        "identity = 1 - F.cosine_similarity(",
        "identity = F.cosine_similarity(",
        _FACE,
    ),
    Bug(
        "identity does not look at all",
        "losses/face.py",
        "return FaceDistance(identity, features)",
        "return FaceDistance(0 * identity, features)",
        _FACE,
    ),
    Bug(
        "features do not look at all",
        "losses/face.py",
        "return FaceDistance(identity, features)",
        "return FaceDistance(identity, 0 * features)",
        _FACE,
    ),
    Bug(
        "the target learns",
        "losses/face.py",
        "        with torch.no_grad():\n            wanted_embedding, wanted_maps = self._look(target)",
        "        wanted_embedding, wanted_maps = self._look(target)",
        _FACE,
    ),
    Bug(
        "the recogniser sees half a pixel aside",
        "losses/face.py",
        "return ((2 * points + 1) / size - 1)",
        "return (2 * points / size - 1)",
        _FACE,
    ),
    Bug(
        "the recogniser sees the whole crop",
        "losses/face.py",
        'matrix = fit_similarity(template_points(template, side), template_points("ffhq", size))',
        "matrix = np.eye(2, 3) * size / side",
        _FACE,
    ),
    Bug(
        "the parser's features do not look",
        "losses/face.py",
        "return torch.stack([map_distance(a, b).mean() for a, b in zip(self._look(prediction), wanted)]).mean()",
        "return torch.stack([map_distance(a, a).mean() for a, b in zip(self._look(prediction), wanted)]).mean()",
        ("losses/test_parser_loss.py",),
    ),
    # reconstruction
    Bug(
        "the mask is ignored",
        "losses/reconstruction.py",
        "return (values * weight).sum() / weight.sum().clamp(min=1e-6)",
        "return values.mean()",
        _RECONSTRUCTION,
    ),
    Bug(
        "the mask counts one channel only",
        "losses/reconstruction.py",
        "weight = mask.to(values.dtype).expand_as(values)\n",
        "weight = mask.to(values.dtype)\n",
        _RECONSTRUCTION,
    ),
    Bug(
        "edges across the mask's border count",
        "losses/reconstruction.py",
        "both = mask.narrow(axis, 0, length) * mask.narrow(axis, 1, length)",
        "both = mask.narrow(axis, 0, length)",
        _RECONSTRUCTION,
    ),
    Bug(
        "structure without the contrast",
        "losses/reconstruction.py",
        "return masked_mean((1 - luminance * structure)[:, None], inside)",
        "return masked_mean((1 - luminance)[:, None], inside)",
        _RECONSTRUCTION,
    ),
    Bug(
        "features of the real picture learn",
        "losses/reconstruction.py",
        "losses.append(l1(f, r.detach(), reduced_mask))",
        "losses.append(l1(f, r, reduced_mask))",
        _RECONSTRUCTION,
    ),
    Bug(
        "the hinge of the discriminator is inside out",
        "losses/adversarial.py",
        "return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())",
        "return 0.5 * (F.relu(1 + real).mean() + F.relu(1 - fake).mean())",
        ("losses/test_adversarial.py",),
    ),
    Bug(
        "the gradient penalty is a norm, not its square",
        "losses/adversarial.py",
        "return gradient.float().square().flatten(1).sum(1).mean()",
        "return gradient.float().flatten(1).norm(dim=1).mean()",
        ("losses/test_adversarial.py",),
    ),
    Bug(
        "the mean teacher stands still",
        "losses/consistency.py",
        "self._mean = RunningMean(student, lambda count: decay)",
        "self._mean = RunningMean(student, lambda count: 1.0)",
        ("losses/test_consistency.py",),
    ),
    # parsing
    Bug(
        "photos without labels do not teach",
        "systems/parse/segface/training.py",
        "loss = loss + self.partial_weight * partial",
        "loss = loss + 0 * partial",
        _TERMS,
    ),
    Bug(
        "photos without labels teach the opposite",
        "systems/parse/segface/training.py",
        "loss = loss + self.partial_weight * partial",
        "loss = loss - self.partial_weight * partial",
        _TERMS,
    ),
    Bug(
        "forbidden classes are allowed",
        "losses/segmentation.py",
        "forbidden = (allowed[counted][:, None] >> classes) & 1 == 0",
        "forbidden = (allowed[counted][:, None] >> classes) & 1 == 1",
        (*_SEGMENTATION, *_TERMS),
    ),
    Bug(
        "pixels that do not count count",
        "losses/segmentation.py",
        "    counted = labels != IGNORED\n    return logits.movedim",
        "    counted = labels != 254\n    return logits.movedim",
        _SEGMENTATION,
    ),
    Bug(
        "Dice without squares",
        "losses/segmentation.py",
        "size = probabilities.square().sum(0)",
        "size = probabilities.sum(0)",
        _SEGMENTATION,
    ),
    Bug(
        "left and right eye of published weights",
        "systems/parse/segface/network.py",
        '"righteye": "l_eye",\n    "lefteye": "r_eye",',
        '"righteye": "r_eye",\n    "lefteye": "l_eye",',
        ("systems/parse/test_segface.py",),
        "tokens",
    ),
    # the dictionary restorer
    Bug(
        "the second stage is fed good faces",
        "systems/restore/restoreformer/training.py",
        '    source = "lq"\n',
        '    source = "hq"\n',
        _TERMS,
    ),
    Bug(
        "what is fed does not follow the stage",
        "systems/restore/codebook_training.py",
        "self.model(signed(batch[self.source]), return_aux=True)",
        'self.model(signed(batch["hq"]), return_aux=True)',
        _TERMS,
    ),
    Bug(
        "attention learns as slowly as the rest",
        "systems/restore/restoreformer/training.py",
        '{"params": asking, "lr": self.attention_lr * self.lr}',
        '{"params": asking, "lr": self.lr}',
        ("systems/restore/test_restoreformer.py",),
    ),
    Bug(
        "texture energy pushes away",
        "systems/restore/facedetail/training.py",
        '"energy": self.energy_weight * texture_energy_loss',
        '"energy": -self.energy_weight * texture_energy_loss',
        _TERMS,
    ),
    Bug(
        "eyes and mouth weigh no more",
        "systems/restore/facedetail/training.py",
        'mask * self._weights(batch["place"], mask)',
        "mask",
        _TERMS,
    ),
    # the shared protocol
    Bug(
        "the protocol's damage is not scaled",
        "evaluation/restore.py",
        "sample(severity, rng, face.image.shape[0], scaled=True)",
        "sample(severity, rng, face.image.shape[0], scaled=False)",
        ("evaluation/test_restore.py",),
    ),
    Bug(
        "the protocol's damage forgets the seed",
        "evaluation/restore.py",
        'f"{seed}/{severity}/{face.name}".encode()',
        'f"{severity}/{face.name}".encode()',
        ("evaluation/test_restore.py",),
    ),
    # detection
    Bug(
        "the second look's pose is not learnt",
        "systems/detect/mos/training.py",
        '"pose": (angle_error * face).sum() / count,',
        '"pose": 0 * (angle_error * face).sum() / count,',
        _TERMS,
    ),
    Bug(
        "the second look learns poses of no faces",
        "systems/detect/mos/training.py",
        '"pose": (angle_error * face).sum() / count,',
        '"pose": angle_error.sum() / count,',
        _TERMS,
    ),
    Bug(
        "labels of mosaics are of other pictures",
        "systems/detect/mos/training.py",
        "moved = faces.roll(-quarter, 0).clone()",
        "moved = faces.roll(quarter, 0).clone()",
        _TERMS,
    ),
    Bug(
        "yaw of the bins is mirrored",
        "systems/detect/mos/training.py",
        "angle = (pose * pose.new_tensor([-1, 1, 1]))",
        "angle = (pose * pose.new_tensor([1, 1, 1]))",
        _TERMS,
    ),
    Bug(
        "hard negatives are easy ones",
        "systems/detect/mos/training.py",
        ".sort(dim=1, descending=True).values\n        allowed",
        ".sort(dim=1, descending=False).values\n        allowed",
        ("systems/detect/test_mos.py",),
        "hard or negative or training or loss or learn",
    ),
    # recognition
    Bug(
        "CosFace's margin helps",
        "losses/margins.py",
        "return cosine - self.m * target_mask(cosine, labels)",
        "return cosine + self.m * target_mask(cosine, labels)",
        _MARGINS,
    ),
    Bug(
        "AdaFace's quality is upside down",
        "losses/margins.py",
        "return (self.h * (lengths - self.mean) / (self.std + self.EPS)).clamp(-1, 1)",
        "return (self.h * (self.mean - lengths) / (self.std + self.EPS)).clamp(-1, 1)",
        _MARGINS,
    ),
    Bug(
        "MagFace rewards short embeddings",
        "losses/margins.py",
        "return (a / self.lengths[1] ** 2 + 1 / a).mean()",
        "return (a / self.lengths[1] ** 2 - 1 / a).mean()",
        _MARGINS,
    ),
    Bug(
        "SFace pushes its own centre away",
        "losses/margins.py",
        "return -self.scale * pull.mean(), self.scale * push.sum(1).mean()",
        "return self.scale * pull.mean(), self.scale * push.sum(1).mean()",
        _MARGINS,
    ),
    Bug(
        "posteriors of two people are pulled together",
        "losses/pairs.py",
        "same = labels[0::2] == labels[1::2]",
        "same = labels[0::2] != labels[1::2]",
        ("losses/test_pairs.py",),
    ),
    Bug(
        "an embedder that answers a constant",
        "systems/recognise/recogniser.py",
        "return np.asarray(raw / np.maximum(lengths, 1e-12), np.float32)",
        "return np.full_like(raw, raw.shape[1] ** -0.5)",
        ("cli/test_identity.py",),
        "same",
    ),
    Bug(
        "the threshold file is of another network",
        "systems/recognise/distilledface/compact.calibration.json",
        '"far": 0.001,\n      "threshold": 0.4',
        '"far": 0.001,\n      "threshold": 0.2',
        ("pipelines/test_identity.py",),
        "shipped",
    ),
    Bug(
        "accepted below the threshold",
        "pipelines/identity.py",
        "if similarity >= threshold:",
        "if similarity <= threshold:",
        ("pipelines/test_identity.py",),
        "not shipped",
    ),
    # landmarks
    Bug(
        "a landmarker that answers the mean face",
        "systems/landmarks/facewarp/network.py",
        "for cut, points, sure in zip(crops, *found):\n",
        "for cut, points, sure in zip(crops, *found):\n"
        "                points = mean_shape(self.config).numpy() * self.config.size\n",
        ("cli/test_analyse.py",),
        "follow or parts",
    ),
    Bug(
        "early stages of the landmarker count most",
        "systems/landmarks/facewarp/training.py",
        "shares = errors.new_tensor(STAGE_WEIGHTS[-errors.shape[1] :])",
        "shares = errors.new_tensor(STAGE_WEIGHTS[::-1][-errors.shape[1] :])",
        ("systems/landmarks/test_facewarp.py",),
        "hand",
    ),
    Bug(
        "the spread moves the points",
        "systems/landmarks/facewarp/training.py",
        "distance = (found.last.detach() - truth).norm(dim=-1)",
        "distance = (found.last - truth).norm(dim=-1)",
        _TERMS,
    ),
    # geometry
    Bug(
        "crops are cut half a pixel aside",
        "geometry/crop.py",
        "middle = np.full(2, (self.size - 1) / 2 + self.offset)",
        "middle = np.full(2, self.size / 2 + self.offset)",
        _GEOMETRY,
    ),
    Bug(
        "a patch shifts by its box",
        "geometry/paste.py",
        "to_box[:, 2] -= (x0, y0)",
        "to_box[:, 2] -= (y0, x0)",
        _GEOMETRY,
    ),
    Bug(
        "the mask of a patch is ignored",
        "geometry/paste.py",
        "weight = (patch.mask * strength)[..., None]",
        "weight = np.full_like(patch.mask, strength)[..., None]",
        _GEOMETRY,
    ),
    # metrics
    Bug(
        "PSNR over pixels that are not true",
        "metrics/full_reference.py",
        "return _decibel(((x - y) ** 2)[valid].mean(), data_range)",
        "return _decibel(((x - y) ** 2).mean(), data_range)",
        ("metrics/test_full_reference.py",),
    ),
    Bug(
        "the fold is judged by its own threshold",
        "metrics/verification.py",
        "correct = _below(d[training & y], grid) - _below(d[training & ~y], grid)",
        "correct = _below(d[test & y], grid) - _below(d[test & ~y], grid)",
        ("metrics/test_verification.py",),
    ),
    Bug(
        "calibration weighs impostors twice",
        "metrics/calibration.py",
        "weights = np.where(y, prior / y.sum(), (1 - prior) / (~y).sum())",
        "weights = np.where(y, prior / y.sum(), (1 - prior) / y.sum())",
        ("metrics/test_calibration.py",),
    ),
    # data
    Bug(
        "a group is split between the sides",
        "data/people.py",
        "        for i in indices:\n            sides[i] = side",
        "        for i in indices[1:]:\n            sides[i] = side",
        ("data/test_people.py",),
    ),
    Bug(
        "who was trained on validates",
        "data/people.py",
        "if len(indices) > CROWD or any(seen[i] for i in indices):",
        "if len(indices) > CROWD:",
        ("data/test_people.py",),
    ),
    Bug(
        "the validation side trains",
        "data/faces.py",
        "usable &= shipped_split().sides(name, pictures, subjects) == split",
        'usable &= shipped_split().sides(name, pictures, subjects) != "dropped"',
        ("data/test_faces.py",),
    ),
    Bug(
        "blue and red are swapped on reading",
        "data/faces.py",
        "return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)",
        "return np.ascontiguousarray(bgr, dtype=np.uint8)",
        ("data/test_restoration.py", "data/test_faces.py"),
    ),
    Bug(
        "the encoder runs away from its codes",
        "systems/restore/codeformer/training.py",
        "away = (features.float() - self.dictionary.net.quantiser.lookup(codes)).square()",
        "away = -(features.float() - self.dictionary.net.quantiser.lookup(codes)).square()",
        ("systems/restore/test_codeformer_training.py",),
    ),
    Bug(
        "codes of the damaged face are wanted",
        "systems/restore/codeformer/training.py",
        'return self.codes(logits, features, signed(batch["hq"]), batch["mask"].float())',
        'return self.codes(logits, features, signed(batch["lq"]), batch["mask"].float())',
        ("systems/restore/test_codeformer_training.py",),
    ),
    Bug(
        "components are cut where rows are columns",
        "systems/restore/gfpgan/training.py",
        "part = image[:, :, y0:y1, x0:x1]",
        "part = image[:, :, x0:x1, y0:y1]",
        ("systems/restore/test_gfpgan_training.py",),
        "components",
    ),
    Bug(
        "the adversaries learn to be fooled",
        "systems/restore/gfpgan/training.py",
        "        self._learning(on=False)\n",
        "        self._learning(on=True)\n",
        ("systems/restore/test_gfpgan_training.py",),
        "no_adversary",
    ),
    Bug(
        "the pyramid is judged outside the photo",
        "systems/restore/gfpgan/training.py",
        "terms.append(l1(image.float(), wanted, whole_cells(mask, (int(side[0]), int(side[1])))))",
        "terms.append(l1(image.float(), wanted))",
        ("systems/restore/test_gfpgan_training.py",),
        "pyramid",
    ),
    # detail at 512 px
    Bug(
        "the less fidelity is wanted, the weaker the adversary",
        _DETAIL,
        "wanted = (1 + self.freedom * (1 - fidelity)) *",
        "wanted = (1 + self.freedom * fidelity) *",
        _FACEDETAIL,
        "less_fidelity",
    ),
    Bug(
        "an adversary in pictures with little damage",
        _DETAIL,
        "return (error.sqrt() / _USUAL_ERROR).clamp(0.2, 2.5)",
        "return (error.sqrt() / _USUAL_ERROR).clamp(2.5, 2.5)",
        _FACEDETAIL,
        "room",
    ),
    Bug(
        "the adversary wants to be found out",
        _DETAIL,
        "wrong = -(logits.float() * inside)",
        "wrong = (logits.float() * inside)",
        _FACEDETAIL,
        "adversary_pulls",
    ),
    Bug(
        "the adversary judges behind the mask",
        _DETAIL,
        "loss = hinge_discriminator(real.float()[inside], fake.float()[inside])",
        "loss = hinge_discriminator(real.float(), fake.float())",
        _FACEDETAIL,
        "discriminator_learns",
    ),
    Bug(
        "texture behind the mask counts",
        _DETAIL,
        "return masked_mean((strength(prediction) - strength(target)).abs(), whole_cells(mask, _cells(mask)))",
        "return (strength(prediction) - strength(target)).abs().mean()",
        _FACEDETAIL,
        "outside",
    ),
    Bug(
        "rows and columns of a place are swapped",
        _DETAIL,
        "self.regions[top : top + height, left : left + width]",
        "self.regions[left : left + height, top : top + width]",
        _FACEDETAIL,
        "weighed",
    ),
    # two stages
    Bug(
        "the first stage takes what it harms",
        _STAGES,
        "self.model(stage_signals(estimate)) > 0)",
        "self.model(stage_signals(estimate)) < 0)",
        _TWO_STAGE,
    ),
    Bug(
        "undamaged faces go through both stages",
        _STAGES,
        "estimate.ssim < self.undamaged and",
        "estimate.ssim < 2 and",
        _TWO_STAGE,
    ),
    Bug(
        "noise finer than the first stage sees is kept",
        _STAGES,
        "keep = float(np.clip(1 - changed / _LARGE_CHANGE, 0, 1))",
        "keep = 1.0",
        _TWO_STAGE,
    ),
    Bug(
        "the first stage's faces get into others",
        _STAGES,
        "for number, after in zip(chosen, restored):",
        "for number, after in enumerate(restored):",
        _TWO_STAGE,
    ),
    Bug(
        "fidelity does not reach the second stage",
        _STAGES,
        "self.detail.restore(prepared, fidelity=fidelity)",
        "self.detail.restore(prepared)",
        _TWO_STAGE,
    ),
    # never a monster
    Bug(
        "sure landmarks make a face of anything",
        "pipelines/plausible.py",
        "if holds and _convinces(full, face):",
        "if _convinces(full, face):",
        _PLAUSIBLE,
    ),
    Bug(
        "as much is expected of a profile",
        "pipelines/plausible.py",
        "return expected == 0 or verdict.sureness >= LEAST_SURE * expected",
        "return verdict.sureness >= LEAST_SURE",
        _PLAUSIBLE,
    ),
    Bug(
        "half strength is full strength",
        "pipelines/plausible.py",
        "weaker = [(Treatment.HALF, mixed(crop.image, output, 0.5))]",
        "weaker = [(Treatment.HALF, output)]",
        _PLAUSIBLE,
    ),
    Bug(
        "faces without noise are blurred",
        "pipelines/plausible.py",
        "if fine_energy(output) < NOISY * fine_energy(crop.image):",
        "if fine_energy(output) > NOISY * fine_energy(crop.image):",
        _PLAUSIBLE,
    ),
    Bug(
        "another frame of a smoothed face is not smoothed",
        "pipelines/plausible.py",
        "            return restore(smoothed(crop))\n",
        "            return restore(crop)\n",
        _PLAUSIBLE,
    ),
    # the gate before restoring
    Bug(
        "edges and flat places are swapped",
        "systems/quality/sharpness.py",
        "np.log10((edges + _TINY) / (flat + _TINY))",
        "np.log10((flat + _TINY) / (edges + _TINY))",
        _SHARPNESS,
    ),
    Bug(
        "the grid of JPEG is looked for beside itself",
        "systems/quality/sharpness.py",
        "return (best + 2) % _BLOCK, ",
        "return (best + 1) % _BLOCK, ",
        _SHARPNESS,
    ),
    Bug(
        "stripes are a grid",
        "systems/quality/sharpness.py",
        "np.log10(max(min(across, down), 0.0) + _LEAST_STEP)",
        "np.log10(max(across, down, 0.0) + _LEAST_STEP)",
        _SHARPNESS,
    ),
    Bug(
        "a reduced photo's grid counts",
        "systems/quality/sharpness.py",
        "* _MOST_REDUCED < 1:",
        "* _MOST_REDUCED < 0:",
        _SHARPNESS,
    ),
    # references
    Bug(
        "a ruin must be as alike as a clean photo",
        "pipelines/references.py",
        "slope = self.similarity + self.product * retained",
        "slope = self.similarity + self.product",
        _REFERENCES,
        "gate",
    ),
    Bug(
        "strangers are one person",
        "pipelines/references.py",
        "calibration.llr(float(face.vector @ o.vector)) > 0 for o",
        "calibration.llr(float(face.vector @ o.vector)) < 0 for o",
        _REFERENCES,
        "together or person",
    ),
    Bug(
        "a stranger's references count",
        "pipelines/references.py",
        "best, found = gate.least + float(np.log(crowd)), -1",
        "best, found = -np.inf + float(np.log(crowd)), -1",
        _REFERENCES,
        "strangers or crowd",
    ),
    Bug(
        "the least like the others is taken",
        "pipelines/references.py",
        "chosen.append(max(faces, key=lambda face: float(face.vector @ mean)))",
        "chosen.append(min(faces, key=lambda face: float(face.vector @ mean)))",
        _REFERENCES,
        "several",
    ),
    # liveness
    Bug(
        "attacks are counted by their mean",
        "systems/liveness/livecheck/network.py",
        "return logits[..., 0] - logits[..., 1:].logsumexp(-1)",
        "return logits[..., 0] - logits[..., 1:].mean(-1)",
        _LIVECHECK,
    ),
    Bug(
        "the map is hot where it looks live",
        "systems/liveness/livecheck/network.py",
        "maps = 1 - self.log_odds(",
        "maps = self.log_odds(",
        _LIVECHECK,
        "evidence",
    ),
    Bug(
        "cells are not taught",
        "systems/liveness/livecheck/training.py",
        "return whole + CELLS_WEIGHT *",
        "return whole + 0 *",
        _LIVECHECK,
    ),
    Bug(
        "the calibration's offset is lost",
        "systems/liveness/livecheck/training.py",
        "model.offset.fill_(found.offset)",
        "model.offset.fill_(0.0)",
        _LIVECHECK,
    ),
    Bug(
        "a person on two sides passes",
        "evaluation/liveness.py",
        "        if shared:\n",
        "        if False:\n",
        ("evaluation/test_liveness.py",),
    ),
    Bug(
        "the test sets its own threshold",
        "evaluation/liveness.py",
        "threshold = pad.eer(development[0], development[1] !=",
        "threshold = pad.eer(test[0], test[1] !=",
        ("evaluation/test_liveness.py",),
    ),
    # forensics
    Bug(
        "the readout goes uphill",
        "systems/forgery/partspectrum/training.py",
        "slope = -importance * sign / (1 + np.exp(sign * logits))",
        "slope = importance * sign / (1 + np.exp(sign * logits))",
        _PARTSPECTRUM,
        "loss or direction",
    ),
    Bug(
        "the larger side of a readout weighs more",
        "systems/forgery/partspectrum/training.py",
        "share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())",
        "share = np.full(len(labels), 1 / len(labels))",
        _PARTSPECTRUM,
        "weigh_more",
    ),
    Bug(
        "differences of parts have a sign",
        "systems/forgery/partspectrum/network.py",
        "(means[a] - means[b])[:, :SPECTRUM].abs() for a, b in PAIRS",
        "(means[a] - means[b])[:, :SPECTRUM] for a, b in PAIRS",
        _PARTSPECTRUM,
        "description",
    ),
    Bug(
        "the map shows the least suspicious part",
        "systems/forgery/partspectrum/network.py",
        "parts.sigmoid(), self.shapes).amax(1, keepdim=True)",
        "parts.sigmoid(), self.shapes).amin(1, keepdim=True)",
        _PARTSPECTRUM,
        "maps or hot",
    ),
    # latent diffusion with references
    Bug(
        "identity counts in pure noise",
        "systems/restore/refldm/training.py",
        "return (schedule.at(time, distance).sqrt() * distance).mean()",
        "return distance.mean()",
        _REFLDM,
        "identity",
    ),
    Bug(
        "most references are dropped",
        "systems/restore/refldm/training.py",
        "torch.rand(count, device=device) >= share",
        "torch.rand(count, device=device) < share",
        _REFLDM,
        "dropped",
    ),
    Bug(
        "the recogniser sees the border",
        "systems/restore/refldm/training.py",
        "_MARGIN = 1 / 16  #",
        "_MARGIN = 0  #",
        _REFLDM,
        "inner or identity",
    ),
    Bug(
        "diffusion is shown the answer",
        "systems/restore/refldm/training.py",
        'model.encode(signed(batch["lq"]))',
        'model.encode(signed(batch["hq"]))',
        _REFLDM,
        "step or shown",
    ),
    # what a face says
    Bug(
        "a face that does not show is judged",
        "pipelines/traits.py",
        "shown = [face for face, reasons in zip(faces, withheld) if not reasons]",
        "shown = list(faces)",
        _TRAITS,
    ),
    Bug(
        "judgements of looks are told unasked",
        "pipelines/traits.py",
        "told = [each if each is None or every else _told(each) for each in said]",
        "told = list(said)",
        _TRAITS,
    ),
    Bug(
        "the least likely expression",
        "pipelines/traits.py",
        "return max(actions.expressions, key=lambda name: actions.expressions[name])",
        "return min(actions.expressions, key=lambda name: actions.expressions[name])",
        _TRAITS,
    ),
    # error rates
    Bug(
        "the best species counts",
        "metrics/presentation.py",
        "return max(sorted(self.apcer), key=lambda name: self.apcer[name])",
        "return min(sorted(self.apcer), key=lambda name: self.apcer[name])",
        _PRESENTATION,
    ),
    Bug(
        "a score at the threshold is live",
        "metrics/presentation.py",
        "accepted = {name: float((s[decided & (kinds == name)] < threshold).mean())",
        "accepted = {name: float((s[decided & (kinds == name)] <= threshold).mean())",
        _PRESENTATION,
    ),
    Bug(
        "one species alone meets the APCER",
        "metrics/presentation.py",
        "return float(min(found))",
        "return float(max(found))",
        _PRESENTATION,
    ),
    Bug(
        "of equal points the strictest",
        "metrics/presentation.py",
        "return len(values) - 1 - int(np.argmin(np.abs(values[::-1] - wanted).round(12)))",
        "return int(np.argmin(np.abs(values - wanted).round(12)))",
        _PRESENTATION,
    ),
    # recognisers without a teacher
    Bug(
        "the centres do not learn",
        "systems/recognise/margin_training.py",
        " + [self.head.weight], ",
        ", ",
        _MARGIN_TRAINING,
    ),
    Bug(
        "strangers are taken for genuine in validation",
        "training/validation.py",
        "labels[first] == labels[second]",
        "labels[first] != labels[second]",
        _MARGIN_TRAINING,
    ),
    Bug(
        "the network is fed what it does not want",
        "systems/recognise/margin_training.py",
        'embeddings = self.model(self.model.normalise(batch["image"])).float()',
        'embeddings = self.model(batch["image"].permute(0, 3, 1, 2) / 127.5 - 1).float()',
        _MARGIN_TRAINING,
    ),
    Bug(
        "everybody is the first person",
        "data/identity.py",
        "self.labels[deck] = number",
        "self.labels[deck] = 0",
        ("data/test_identity.py",),
    ),
    Bug(
        "crops that should stay clean are damaged",
        "data/identity.py",
        "return degrade(image, rng) if rng.random() < degraded else image",
        "return degrade(image, rng)",
        ("data/test_identity.py",),
    ),
    # training and weights
    Bug(
        "the average of the weights is never shipped",
        "training/trainer.py",
        "super().__init__(module, lambda count: min(decay, (1 + count) / (10 + count)))",
        "super().__init__(module, lambda count: 0.0)",
        ("training/test_trainer.py",),
    ),
    Bug(
        "a step that overflowed is taken",
        "training/trainer.py",
        "if not np.isfinite(self.norms[name]):",
        "if False:",
        ("training/test_trainer.py",),
    ),
    Bug(
        "damaged weights are loaded",
        "weights/store.py",
        '    if found != expected:\n        raise WeightsError(f"{path} is damaged',
        '    if False:\n        raise WeightsError(f"{path} is damaged',
        ("weights/test_store.py",),
    ),
    Bug(
        "pickles run code",
        "weights/store.py",
        'content = torch.load(file, map_location="cpu", weights_only=True)',
        'content = torch.load(file, map_location="cpu", weights_only=False)',
        ("weights/test_store.py",),
    ),
)
