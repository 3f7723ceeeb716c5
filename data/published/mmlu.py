"""
MMLU: multiple choice in 57 subjects. Hendrycks et al. 2021, arXiv:2009.03300.
"""
from data.published.source import Source, grade_letter, multiple_choice_record


class MMLU(Source):
    """Splits: "train" is the auxiliary set (99,842 of other exams), "test" 14,042, "validation" 1,531, "dev" 285."""
    name = "mmlu"
    files = {"train": "/auxiliary_train*", "test": "/test*", "validation": "/val*", "dev": "/dev*"}
    letters = ["A", "B", "C", "D"]
    grade = staticmethod(grade_letter)

    @staticmethod
    def to_record(row):
        row = row.get("train") or row                    # one of the published forms nests each row in a column "train"
        if row["answer"] not in range(4):
            raise ValueError(f"answer is {row['answer']!r}, expected 0 to 3")
        return multiple_choice_record(row["question"], MMLU.letters, row["choices"], MMLU.letters[row["answer"]],
                                      row.get("subject") or "auxiliary")
