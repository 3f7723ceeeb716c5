"""
ARC: science questions of school exams, in an easy and a challenge set.

Clark et al. 2018, arXiv:1803.05457.
"""
from data.published.source import Source, grade_letter, multiple_choice_record


class ARCEasy(Source):
    """2,251 questions in train, 570 in validation, 2,376 in test; each has 3 to 5 options."""
    name = "arc"
    subject = "ARC-Easy"
    files = {"train": "/ARC-Easy/train*", "validation": "/ARC-Easy/validation*",
             "test": "/ARC-Easy/test*"}
    grade = staticmethod(grade_letter)

    @classmethod
    def to_record(cls, row):
        options = row["choices"]["text"]
        labels = row["choices"]["label"]
        # Some exams number their options 1 2 3 4; here all have letters.
        letters = [chr(ord("A") + i) for i in range(len(options))]
        # In a bad row the key is none of the labels, which raises ValueError.
        answer = letters[labels.index(row["answerKey"])]
        return multiple_choice_record(row["question"], letters, options, answer, cls.subject)


class ARCChallenge(ARCEasy):
    """The questions that retrieval and word statistics both got wrong: 1,119, 299 and 1,172."""
    subject = "ARC-Challenge"
    files = {split: pattern.replace("ARC-Easy", "ARC-Challenge")
             for split, pattern in ARCEasy.files.items()}
