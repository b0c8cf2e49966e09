"""BentoML as its tutorials do it: a `PIL.Image` parameter, a dict back, one worker a core.

`bentoml serve benchmarks.peers.bentoml_app:TutorialClassifier`. A named image parameter takes multipart only.
"""

import bentoml
from PIL.Image import Image

from benchmarks.peers.classifier import PROCESSES, Classifier


@bentoml.service(workers=PROCESSES)
class TutorialClassifier:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api
    def classify(self, image: Image) -> dict:
        return self.classifier.answer(self.classifier.run(self.classifier.to_array(image)[None])[0])
