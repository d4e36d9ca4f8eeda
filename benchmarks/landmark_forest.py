"""Speed of the landmark forest: features and score of one face after another, in processor time.

python -m benchmarks.landmark_forest     # the embedded forest; meant to stay below 0.2 ms a face
"""

from __future__ import annotations

import time

import numpy as np

from facewright.systems.quality.landmark_forest.network import LandmarkForest, face_features

POINTS = np.array([[80, 100], [120, 102], [101, 122], [85, 142], [117, 143]], float)
BOX, FRAME = (60.0, 60.0, 140.0, 170.0), (250, 300)
ROUNDS, FACES = 8, 100


def main() -> None:
    forest = LandmarkForest.from_pretrained()
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(FACES):
            forest.score(face_features(POINTS, BOX, 0.9, FRAME)[None])
        spent.append(1000 * (time.process_time() - start) / FACES)
    print(f"{min(spent):.3f} ms a face (best of {ROUNDS} rounds), {np.median(spent):.3f} ms in the median")


if __name__ == "__main__":
    main()
