class HelperBudget:
    unlimited: bool
    @property
    def refused(self) -> int: ...
