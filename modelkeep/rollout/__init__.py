"""Replaces the live version safely: a canary in steps, judged on live outcomes; rollback in one write."""
