"""What styles and numbers of Word mean."""
