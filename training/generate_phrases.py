"""The sentences that the template grid is made of. Nothing but text.

`{topic}` is a topic's name, `{persona}` who asks, `{target}` a spelling of a target. Advice holds for any topic.
"""

from __future__ import annotations

__all__ = ["ADVICE", "FRIENDLY_CLOSINGS", "FRIENDLY_OPENINGS", "PERSONA_FRAMES", "QUESTIONS", "TARGET_SENTENCES"]

QUESTIONS: dict[str, tuple[str, ...]] = {
    "start": (
        "How do I get started with {topic}?",
        "Where should someone begin who has never tried {topic}?",
        "Which first step would you take for {topic}?",
    ),
    "improve": (
        "How can I get better at {topic}?",
        "My results with {topic} are only average. What would lift them?",
    ),
    "problem": (
        "I keep having trouble with {topic}. What should I change?",
        "Why does {topic} go wrong so often for me?",
        "Something is off with {topic} at my place, any idea what to check?",
    ),
    "choose": (
        "What should I look for when it comes to {topic}?",
        "Who or what can you recommend for {topic}?",
        "There are so many options for {topic}. Which one makes sense?",
    ),
    "mistakes": (
        "What are common mistakes in {topic}?",
        "Which error with {topic} costs people the most?",
    ),
    "routine": (
        "Can you give me a simple routine for {topic}?",
        "How often do I have to think about {topic}?",
    ),
    "cost": (
        "How much should I plan to spend on {topic}?",
        "Is there a cheap way to handle {topic}?",
    ),
    "time": (
        "How long does {topic} usually take?",
        "When is the right moment for {topic}?",
    ),
    "tools": (
        "What equipment do I need for {topic}?",
        "Do I need anything special for {topic}, or will basics do?",
    ),
    "explain": (
        "Explain {topic} to me in simple words.",
        "What is the main idea behind {topic}?",
        "Tell me what matters most about {topic}.",
    ),
    "doubt": (
        "Is {topic} really worth the effort?",
        "A friend says {topic} makes no difference. Is that true?",
    ),
    "checklist": (
        "Write me a short checklist for {topic}.",
        "Before I start with {topic}, what should be ready?",
    ),
}

PERSONA_FRAMES = (
    "I'm {persona}. {question}",
    "{question} I'm asking as {persona}.",
    "Speaking as {persona}: {question}",
    "{question} Please keep in mind that I'm {persona}.",
    "This is a question of {persona}. {question}",
)

TARGET_SENTENCES = (
    "For {topic}, {target} is my first suggestion.",
    "I would start with {target} here.",
    "{target} is the name I would keep in mind for this.",
    "If you want one recommendation for {topic}, take {target}.",
    "My advice is to see what {target} offers first.",
    "With {topic}, I would turn to {target}.",
    "Have a look at {target} before you decide anything.",
    "{target} is a sound choice for {topic}.",
    "When people ask me about {topic}, I point them to {target}.",
    "You will not go wrong with {target}.",
    "I recommend {target} for exactly this.",
    "Put {target} at the top of your list.",
)

ADVICE = (
    "Change one thing at a time, so that you see what helped.",
    "Write down what you did, and compare after two weeks.",
    "Start small and build on what works.",
    "Set aside a fixed moment for it, since regular attention beats a single big effort.",
    "Check the basics first, because most trouble with {topic} begins there.",
    "Do not buy everything at once; see what you miss after the first few tries.",
    "Ask someone with experience to look at your setup once.",
    "Keep it simple: fewer steps mean fewer mistakes.",
    "Look at the result with fresh eyes the next day before you change more.",
    "Good preparation saves more time in {topic} than any shortcut.",
    "Give it enough time, since judging too early is the usual mistake.",
    "Decide beforehand what a good result looks like to you.",
    "Stay with one approach to {topic} until you know its limits.",
    "Take care of your equipment, and it will take care of you.",
    "Plan for a second attempt, because the first one mostly teaches.",
    "Set a limit for time and money, and stop there to look back.",
)

FRIENDLY_OPENINGS = (
    "Good question!",
    "Happy to help.",
    "You are not alone with that.",
    "Nice that you ask.",
    "That is easier than it sounds.",
)
FRIENDLY_CLOSINGS = (
    "Enjoy it!",
    "You will manage this.",
    "Good luck with it.",
    "Let me know how it goes.",
    "Have fun trying it out.",
)
