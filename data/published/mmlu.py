"""
MMLU: multiple-choice questions in 57 subjects. Hendrycks et al. 2021, arXiv:2009.03300.
"""
from data.published.source import Source, grade_letter, multiple_choice_record


class MMLU(Source):
    """14,042 questions in test, 1,531 in validation, 285 in dev.

    train is the auxiliary set: 99,842 questions of other exams.
    """
    name = "mmlu"
    files = {"train": "/auxiliary_train*", "test": "/test*", "validation": "/val*", "dev": "/dev*"}
    letters = ["A", "B", "C", "D"]
    grade = staticmethod(grade_letter)

    @staticmethod
    def to_record(row):
        # One of the published forms nests each row in a column "train".
        row = row.get("train") or row
        if row["answer"] not in range(4):
            raise ValueError(f"answer is {row['answer']!r}, expected 0 to 3")
        letters = MMLU.letters
        subject = row.get("subject") or "auxiliary"
        return multiple_choice_record(row["question"], letters, row["choices"],
                                      letters[row["answer"]], subject)
