"""The first hour: what a folder holds, and the recipe that follows from it."""
